"""Parts of the CTGenGenerate module: segment table, report box, consistency check, plans of runs."""
