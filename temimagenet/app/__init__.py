"""The desktop app: `session` and its neighbours know no window, `widget` shows them in napari, `launch` starts it."""
