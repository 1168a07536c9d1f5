"""Each of our stores keeps the contract that `StoreContract` has for everybody's."""

import pytest

from tornado_sesame.testing import StoreContract


class Ours(StoreContract):
    @pytest.fixture
    def store(self, database):
        return database.new_store()


@pytest.mark.stores("memory")
class TestMemoryStore(Ours):
    # It never reports as failed what it has done.
    test_a_write_that_is_repeated_is_done_once = None
    test_a_first_attempt_that_comes_after_its_repetition_is_not_done = None


@pytest.mark.stores("sqlite")
class TestSQLiteStore(Ours):
    pass


@pytest.mark.mongodb
class TestMongoStore(Ours):
    pass
