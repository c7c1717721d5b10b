"""Parts of the CTGenReconstruct module: runs, the list of codecs, how codecs compare on one CT, and data sets."""
