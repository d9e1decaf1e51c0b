"""A pipeline that is a service."""

from dynamo_tasks.pipelines import LocalEnvironment
from tests.support.pipeline_parts import Enrich, Profile, fails_on, plus

env = LocalEnvironment("people", {"namespace": "shop"})
env.register_service("profile", Profile, score=0.7)
env.from_requests().map(Enrich).collect()
People = env.as_service("People", parallelism=2)

numbers = LocalEnvironment("numbers", {"namespace": "shop"})
stream = numbers.from_requests().map(fails_on, 13)
stream.map(plus, 10).collect()
stream.map(plus, 20).collect()
Numbers = numbers.as_service("Numbers")
