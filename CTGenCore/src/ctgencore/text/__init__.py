"""Reports as the denoiser reads them: prompts and text encoders behind one interface."""
