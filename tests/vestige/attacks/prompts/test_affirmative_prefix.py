from typing import Any

from hooked import UnlearnData
from tests.vestige.attacks.contract import AttackContract
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.plain import plain
from vestige.attacks.prompts.affirmative_prefix import affirmative_prefix


class TestAffirmativePrefix(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return affirmative_prefix(target, data, prefix="t5 t6", **settings)


class TestPlain(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return plain(target, data, **settings)
