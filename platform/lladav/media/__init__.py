"""From image and video files to RGB images, for training, evaluation, the command line and the server."""
