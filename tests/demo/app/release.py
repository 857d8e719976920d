"""What differs between the releases of the application; the second image brings its own copy of this file."""

RELEASE = 1

INSERT_MESSAGE = """
    INSERT INTO chat_message (chat_session_id, writer, role, body, meta)
    VALUES (%(session)s, %(writer)s, %(role)s, %(body)s, %(meta)s)
    RETURNING id
"""
