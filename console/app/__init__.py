"""The Qt application: the window, its keys and actions, the bridge to the threads."""
