"""Parts of the CTGenEvaluate module: metric list, job, result table, chart, error map, exports."""
