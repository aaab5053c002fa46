"""An HTTP server with OpenAI's interface, over a pipeline that serves requests as they come."""
