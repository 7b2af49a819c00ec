"""From a valid request to what the engine decodes: prompt, limits, options, structures."""
