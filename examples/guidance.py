"""The example guidance service: its topics are set by the page that a seller is on, so none is out of scope.

Run with `python -m examples.guidance`; its settings are environment variables (see `ServiceSettings`).
"""

from examples.service import ServiceSettings, run

if __name__ == "__main__":
    run(
        ServiceSettings.from_environment(persona="coach", port=9822), journey="guidance", refuses_topics=False
    )
