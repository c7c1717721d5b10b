"""Parts of the CTGenReconstruct module: runs, the list of codecs, and how several codecs compare on one CT."""
