"""What schemathesis must be told of our API."""

import schemathesis
from schemathesis.specs.openapi import checks

# CTA-5004-A's media type is text: one event a line.
schemathesis.serializer.alias("application/cmcd", "text/plain")

# Who is wrong too often is told to wait, whatever he brings: a refusal too.
checks.AUTH_REJECTION_STATUSES = {*checks.AUTH_REJECTION_STATUSES, 429}
