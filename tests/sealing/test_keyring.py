"""Sealing and unsealing with data keys; which key is used when, and what is refused."""

import base64
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.catalogue import Data, Sealed
from shared.keyring import ERASED, Keyring, NewKey
from shared.log.port import KEYS, At, partition_of
from shared.sealing import (
    MasterKey,
    MasterKeyUnsafe,
    SealedMalformed,
    SealedTampered,
    key_id_of,
    key_path,
    make_master_key_file,
)

AT = datetime(2026, 1, 2, 10, tzinfo=UTC)
MASTER = MasterKey(b"\x01" * 32)


def a_keyring(master: MasterKey = MASTER, seed: int = 1, most: int = 100) -> Keyring:
    return Keyring(master, random.Random(seed).randbytes, lambda: AT, most)


def learn(keyring: Keyring, key: NewKey) -> None:
    keyring.learn(key.tenant, key.subject, key.key_id, key.wrapped)


class Contact(Data):
    """Somebody."""

    email: Sealed


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_what_is_sealed_is_unsealed(text: str) -> None:
    keyring = a_keyring()
    sealed = keyring.seal("acme", "c_01", text)
    assert sealed.startswith("sealed.v1.")
    assert keyring.unseal("acme", "c_01", sealed) == text


def test_the_same_text_never_looks_the_same() -> None:
    keyring = a_keyring()
    assert len({keyring.seal("acme", "c_01", "li@example.com") for _ in range(20)}) == 20


def test_a_model_is_sealed_for_its_subject() -> None:
    keyring = a_keyring()
    sealed = keyring.seal_model("acme", "c_01", Contact(email="li@example.com"))
    assert keyring.unseal("acme", "c_01", sealed.email) == "li@example.com"
    with pytest.raises(TypeError, match="dict is no event data"):
        keyring.seal_model("acme", "c_01", {"email": "li@example.com"})


def test_text_that_looks_sealed_comes_back_as_it_was_and_opens_nothing() -> None:
    keyring = a_keyring()
    victims = keyring.seal("acme", "c_01", "li@example.com")
    smuggled = keyring.seal_model("acme", "c_01", Contact(email=victims)).email
    assert keyring.unseal("acme", "c_01", smuggled) == victims


def test_a_contact_keeps_its_key_and_another_gets_another() -> None:
    keyring = a_keyring()
    ids = [key_id_of(keyring.seal(*whose, "x")) for whose in (("acme", "c_01"), ("acme", "c_01"), ("acme", "c_02"))]
    assert ids[0] == ids[1] != ids[2]
    assert [(key.tenant, key.subject, key.key_id) for key in keyring.take_new()] == [
        ("acme", "c_01", ids[0]),
        ("acme", "c_02", ids[2]),
    ]
    assert keyring.take_new() == []


def test_a_new_key_says_where_it_is_recorded() -> None:
    keyring = a_keyring()
    keyring.seal("acme", "inbox/regulars.inbox.door.1/3/17", "x")
    (new,) = keyring.take_new()
    assert new.at == At(KEYS, partition_of("acme", "inbox/regulars.inbox.door.1/3/17"))
    assert new.entry.key == f"acme/inbox/regulars.inbox.door.1/3/17/{new.key_id}".encode()
    assert orjson.loads(new.entry.value or b"") == {
        "wrapped": base64.b64encode(new.wrapped).decode(),
        "made_at": "2026-01-02T10:00:00.000000Z",
        "master": MASTER.fingerprint,
    }


def test_a_taken_key_is_not_sealed_with_before_the_log_has_it() -> None:
    keyring = a_keyring()
    first = key_id_of(keyring.seal("acme", "c_01", "x"))
    in_flight = keyring.take_new()

    second = key_id_of(keyring.seal("acme", "c_01", "y"))
    assert second != first, "another partition must not lean on an append that may fail"
    assert [key.key_id for key in keyring.take_new()] == [second]

    keyring.acknowledged(in_flight)
    assert key_id_of(keyring.seal("acme", "c_01", "z")) == first
    assert keyring.take_new() == []


@pytest.mark.parametrize("taken", [True, False])
def test_a_forgotten_key_is_neither_used_nor_published(taken: bool) -> None:
    keyring = a_keyring()
    sealed = keyring.seal("acme", "c_01", "x")
    twin = a_keyring()
    twin.seal("acme", "c_01", "x")
    new = keyring.take_new() if taken else twin.take_new()

    keyring.forget(new)

    assert keyring.unseal("acme", "c_01", sealed) is ERASED
    again = keyring.seal("acme", "c_01", "x")
    assert key_id_of(again) != key_id_of(sealed)
    assert [key.key_id for key in keyring.take_new()] == [key_id_of(again)]
    keyring.acknowledged(new)
    assert key_id_of(keyring.seal("acme", "c_01", "x")) not in {key.key_id for key in new}
    keyring.forget(new)


def test_keys_held_are_bounded_and_a_key_let_go_can_be_learned_again() -> None:
    keyring = a_keyring(most=3)
    sealed = {subject: keyring.seal("acme", subject, subject) for subject in ("a", "b", "c")}
    new = keyring.take_new()
    keyring.acknowledged(new)
    keyring.seal("acme", "a", "used again")

    keyring.seal("acme", "d", "d")

    assert keyring.unseal("acme", "a", sealed["a"]) == "a"
    assert keyring.unseal("acme", "b", sealed["b"]) is ERASED, "the least recently used goes first"
    learn(keyring, new[1])
    assert keyring.unseal("acme", "b", sealed["b"]) == "b"
    assert keyring.unseal("acme", "c", sealed["c"]) is ERASED


def test_another_process_with_the_master_key_unseals() -> None:
    writer, reader = a_keyring(), a_keyring(seed=2)
    sealed = writer.seal("acme", "c_01", "li@example.com")
    assert reader.unseal("acme", "c_01", sealed) is ERASED
    learn(reader, writer.take_new()[0])
    assert reader.unseal("acme", "c_01", sealed) == "li@example.com"


def test_a_key_wrapped_under_another_master_key_is_refused() -> None:
    writer, stranger = a_keyring(), a_keyring(MasterKey(b"\x02" * 32))
    writer.seal("acme", "c_01", "x")
    (new,) = writer.take_new()
    with pytest.raises(SealedTampered):
        learn(stranger, new)


@pytest.mark.parametrize(
    "moved",
    [
        lambda key: key._replace(tenant="other"),
        lambda key: key._replace(subject="c_02"),
        lambda key: key._replace(key_id="00"),
        lambda key: key._replace(wrapped=key.wrapped[:-1] + bytes([key.wrapped[-1] ^ 1])),
    ],
    ids=["tenant", "subject", "key id", "bytes"],
)
def test_a_wrapped_key_is_bound_to_its_owner(moved: Callable[[NewKey], NewKey]) -> None:
    writer, reader = a_keyring(), a_keyring(seed=2)
    writer.seal("acme", "c_01", "x")
    with pytest.raises(SealedTampered):
        learn(reader, moved(writer.take_new()[0]))


def test_every_changed_bit_is_noticed() -> None:
    keyring = a_keyring()
    sealed = keyring.seal("acme", "c_01", "Li")
    head, _, coded = sealed.rpartition(".")
    box = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    for bit in range(len(box) * 8):
        changed = bytearray(box)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealedTampered):
            keyring.unseal("acme", "c_01", f"{head}.{base64.urlsafe_b64encode(changed).decode().rstrip('=')}")


@pytest.mark.parametrize(("tenant", "subject"), [("acme", "c_02"), ("other", "c_01")])
def test_a_text_moved_to_another_contact_does_not_open(tenant: str, subject: str) -> None:
    keyring = a_keyring()
    sealed = keyring.seal("acme", "c_01", "Li")
    assert keyring.unseal(tenant, subject, sealed) is ERASED
    # not even when both contacts' keys have the same id and bytes
    (key,) = keyring.take_new()
    data_key = MASTER.unwrap(key.wrapped, key_path("acme", "c_01", key.key_id))
    same = MASTER.wrap(data_key, key_path(tenant, subject, key.key_id), os.urandom)
    keyring.learn(tenant, subject, key.key_id, same)
    with pytest.raises(SealedTampered):
        keyring.unseal(tenant, subject, sealed)


@pytest.mark.parametrize(
    "text", ["", "Li", "sealed.v1.k1", "sealed.v2.k1.AAAA", "sealed.v1.k/1.AAAA", "sealed.v1.k1.A+A="]
)
def test_what_is_not_sealed_is_named(text: str) -> None:
    with pytest.raises(SealedMalformed, match="not of the form"):
        a_keyring().unseal("acme", "c_01", text)


def test_a_box_too_short_to_be_sealed_is_named() -> None:
    keyring = a_keyring()
    key_id = key_id_of(keyring.seal("acme", "c_01", "x"))
    for coded in ("A", "AAAA", "A" * 36):
        with pytest.raises(SealedMalformed, match=r"too short|not base64url"):
            keyring.unseal("acme", "c_01", f"sealed.v1.{key_id}.{coded}")


def test_a_slash_cannot_move_a_key_between_tenants() -> None:
    with pytest.raises(ValueError, match="slash"):
        a_keyring().seal("acme/x", "c_01", "Li")


def test_the_same_randomness_gives_the_same_bytes() -> None:
    one, other = a_keyring(seed=7), a_keyring(seed=7)
    assert one.seal("acme", "c_01", "Li") == other.seal("acme", "c_01", "Li")
    assert one.take_new() == other.take_new()


def test_the_demo_makes_its_master_key_once_and_for_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    make_master_key_file(path, os.urandom)
    first = path.read_bytes()
    make_master_key_file(path, os.urandom)

    assert path.read_bytes() == first
    assert len(base64.b64decode(first, validate=False)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_master_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    make_master_key_file(path, os.urandom)
    path.chmod(0o640)
    with pytest.raises(MasterKeyUnsafe, match=r"chmod 600"):
        make_master_key_file(path, os.urandom)
    assert list(tmp_path.iterdir()) == [path]
