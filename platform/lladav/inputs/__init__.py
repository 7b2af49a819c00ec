"""From files and messages to the arrays that the model takes: chat text, images, videos, packing."""
