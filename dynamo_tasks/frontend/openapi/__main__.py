"""``python -m dynamo_tasks.frontend.openapi``: print the document."""

import json

from dynamo_tasks.frontend.openapi.document import document

if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
