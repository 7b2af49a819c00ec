"""OpenAI's Responses API, translated to chat requests and written from chat deltas."""
