"""The model: language tower, vision tower, projector, and their multimodal assembly."""
