"""The example chat service: a message whose topic is not among `allowed_topics` is out of scope.

Run with `python -m examples.chat`; its settings are environment variables (see `ServiceSettings`).
"""

from examples.service import ServiceSettings, run

if __name__ == "__main__":
    run(ServiceSettings.from_environment(persona="concierge", port=9821), journey="chat", refuses_topics=True)
