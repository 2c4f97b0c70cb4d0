"""The Space: a page in the browser to try a checkpoint with. Gradio is imported when it is opened (`grlm_hf.space.app`)."""
