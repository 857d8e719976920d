"""What differs between the releases of the application; this copy lies over the one of the first image."""

RELEASE = 2

INSERT_MESSAGE = """
    INSERT INTO chat_message (chat_session_id, writer, role, body, meta, token_count)
    VALUES (%(session)s, %(writer)s, %(role)s, %(body)s, %(meta)s, length(%(body)s) / 4)
    RETURNING id
"""
