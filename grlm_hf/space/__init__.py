"""The Space: a page in the browser to try a checkpoint. Gradio is imported when the page is opened (`grlm_hf.space.app`)."""
