"""Each of our stores keeps the contract that `StoreContract` has for everybody's."""

import pytest

from tornado_sesame.testing import StoreContract


class Ours(StoreContract):
    @pytest.fixture
    def store(self, database):
        return database.new_store()


@pytest.mark.stores("memory")
class TestMemoryStore(Ours):
    pass


@pytest.mark.stores("sqlite")
class TestSQLiteStore(Ours):
    pass


@pytest.mark.mongodb
class TestMongoStore(Ours):
    pass
