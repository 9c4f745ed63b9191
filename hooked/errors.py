"""The one exception a caller of Vestige has to know."""


class VestigeError(Exception):
    """A problem the user can act on: what was needed, what came, which item, and what to do.

    Everything a user can cause (a wrong site, a malformed file, a missing reference model) is raised as this type with
    a one-line message, so that the command line can print it and exit with code 2. Anything else that escapes is a bug.
    """
