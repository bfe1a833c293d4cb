"""Files of video to clips: which frames and which part of the picture, decoding, and reading clips by number."""
