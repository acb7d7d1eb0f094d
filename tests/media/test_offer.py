"""What is taken of a caller's offer, what is refused and in which words; no text breaks or slows the reader."""

import contextlib
import re
import sys
import time
from collections.abc import Callable

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.media.offer import MAX_OFFER_CHARS, MAX_SECTIONS, OfferRefused, read_offer
from tests.media.offers import CHROMIUM, FINGERPRINT, FIREFOX, SAFARI, SHAPES

OURS = """v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=msid-semantic:WMS *\r
m=audio 40000 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 192.0.2.1\r\na=sendrecv\r\na=mid:0\r\na=rtcp-mux\r
a=rtpmap:111 opus/48000/2\r\na=candidate:1 1 udp 1 192.0.2.1 40000 typ host\r\na=ice-ufrag:ours\r
a=ice-pwd:0123456789012345678901\r\na=setup:active\r\n"""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_aiortc_gets_one_audio_section_of_our_own_making(shape: str, end: str) -> None:
    """No candidate, no second section, no codec but Opus, and nothing that would make aiortc send to an address."""
    offer = read_offer(SHAPES[shape].replace("\n", end))
    description = offer.description()
    (media,) = SessionDescription.parse(description).media
    assert (media.kind, media.direction, media.rtcp_mux, media.ice.iceLite) == ("audio", "sendrecv", True, False)
    assert media.ice_candidates == []
    assert not media.ice_candidates_complete
    assert [(codec.name, codec.payloadType) for codec in media.rtp.codecs] == [("opus", offer.payload_type)]
    assert f"a=ice-ufrag:{media.ice.usernameFragment}\n" in SHAPES[shape]
    assert [one.value for one in media.dtls.fingerprints] == [FINGERPRINT.partition(" ")[2]]
    assert not re.search(r"203\.0\.113|192\.0\.2|local|candidate", description)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_answer_has_the_sections_of_the_offer(shape: str) -> None:
    """In their order and with their names; all but the audio with port 0."""
    answer = read_offer(SHAPES[shape]).answer(OURS)
    kinds = re.findall(r"^m=(\S+)", SHAPES[shape], re.MULTILINE)
    sections = re.findall(r"^m=(\S+) (\d+)", answer, re.MULTILINE)
    assert sections == [(kind, "40000" if kind == "audio" else "0") for kind in kinds]
    assert re.findall(r"^a=mid:(.*)\r", answer, re.MULTILINE) == re.findall(r"^a=mid:(.*)", SHAPES[shape], re.MULTILINE)
    assert SessionDescription.parse(answer).group[0].items == re.search(r"BUNDLE (.*)", SHAPES[shape])[1].split()


def test_the_first_audio_section_that_can_be_answered_is() -> None:
    """A section that was withdrawn (port 0) and one without Opus are passed over, and rejected in the answer."""
    withdrawn = "m=audio 0 UDP/TLS/RTP/SAVPF 0\na=mid:zero\na=inactive\na=rtpmap:0 PCMU/8000\n"
    without = withdrawn.replace("audio 0", "audio 9").replace("zero", "one")
    offer = read_offer(FIREFOX.replace("m=audio", withdrawn + without + "m=audio"))
    assert offer.index == 2
    assert re.findall(r"^m=audio (\d+)", offer.answer(OURS), re.MULTILINE) == ["0", "0", "40000"]


def test_a_caller_without_names_for_its_sections_gets_none() -> None:
    """Old devices know neither a=mid nor bundles."""
    answer = read_offer(re.sub(r"a=(mid|group).*\n", "", SAFARI)).answer(OURS)
    assert "a=mid" not in answer
    assert "BUNDLE" not in answer


REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "empty": (lambda _: "", "must begin with v=0"),
    "JSON": (lambda s: '{"type":"offer"}', "must begin with v=0"),
    "a browser's object": (lambda s: "[object RTCSessionDescription]", "must begin with v=0"),
    "too long": (lambda s: s + "a=x:" + "x" * MAX_OFFER_CHARS, f"at most {MAX_OFFER_CHARS}"),
    "no section": (lambda s: "v=0\r\n", "no audio section"),
    "many sections": (lambda s: s + "m=video 9 RTP/SAVPF 96\n" * 100, f"more than {MAX_SECTIONS}"),
    "prose": (lambda s: s + "and then some\n", "is not SDP: 'and then some'"),
    "a broken section": (lambda s: s.replace("m=audio 9", "m=audio nine"), "'m=audio nine"),
    "port": (lambda s: s.replace("m=audio 9", "m=audio 99999"), "'m=audio 99999"),
    "withdrawn": (lambda s: s.replace("m=audio 9", "m=audio 0"), "no audio section"),
    "bundle-only": (
        lambda s: s.replace("m=audio 9", "m=audio 0").replace("a=mid:0", "a=mid:0\na=bundle-only"),
        "shares",
    ),
    "unencrypted": (lambda s: s.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP"), "'RTP/AVP'; it must be UDP/TLS/RTP/SAVPF"),
    "no Opus": (lambda s: s.replace("opus/48000/2", "ilbc/8000"), "does not offer Opus"),
    "a static number": (lambda s: s.replace("111 63", "35 63").replace(":111 opus", ":35 opus"), "from 96 to 127"),
    "sends only": (lambda s: s.replace("a=sendrecv", "a=sendonly"), "its audio section is sendonly"),
    "two directions": (
        lambda s: s.replace("a=sendrecv", "a=sendrecv\na=inactive"),
        "two different values for direction",
    ),
    "no mux": (lambda s: s.replace("a=rtcp-mux\n", ""), "no a=rtcp-mux"),
    "ice-lite": (lambda s: s.replace("t=0 0", "t=0 0\na=ice-lite"), "a=ice-lite"),
    "no ufrag": (lambda s: s.replace("a=ice-ufrag:EsAw\n", ""), "no a=ice-ufrag"),
    "long ufrag": (lambda s: s.replace("EsAw", "u" * 20_000), "a=ice-ufrag has 20000 characters"),
    "short password": (lambda s: s.replace("P2uYro0UCOQ4zxjKXaWCBui1", "secret"), "a=ice-pwd has 6 characters"),
    "odd password": (lambda s: s.replace("P2uYro0UCOQ4zxjKXaWCBui1", "P2uYro0UCOQ4zxj KXaWCBu"), "may not have"),
    "two ufrags": (lambda s: s.replace("a=ice-ufrag:EsAw", "a=ice-ufrag:EsAw\na=ice-ufrag:other", 1), "two different"),
    "no print": (lambda s: s.replace(FINGERPRINT + "\n", ""), "no a=fingerprint"),
    "sha-1": (lambda s: s.replace("sha-256", "sha-1"), "no a=fingerprint with sha-256"),
    "short print": (lambda s: s.replace(":1E:1F", ":1E"), "is no sha-256 digest"),
    "no hex": (lambda s: s.replace(":1E:1F", ":1E:XY"), "is no sha-256 digest"),
    "prints": (
        lambda s: s.replace(FINGERPRINT, "\n".join(f"a=fingerprint:md{n} AA" for n in range(9))),
        "9 fingerprints",
    ),
    "setup": (lambda s: s.replace("a=setup:actpass", "a=setup:holdconn"), "'holdconn'; it must be"),
    "names": (lambda s: s.replace("a=mid:1", "a=mid:0"), "the same a=mid: '0'"),
    "a name of words": (lambda s: s.replace("a=mid:0", "a=mid:first one"), "'first one'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_refused_in_words(what: str) -> None:
    """Each message says what is wrong with what; none repeats the caller's password."""
    change, words = REFUSED[what]
    with pytest.raises(OfferRefused) as refusal:
        read_offer(change(CHROMIUM))
    assert words in str(refusal.value)
    assert "P2uYro0U" not in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


LINES = sorted({line for shape in SHAPES.values() for line in shape.splitlines()})
PIECES = st.one_of(
    st.sampled_from(LINES),
    st.sampled_from(LINES).flatmap(lambda line: st.integers(0, len(line)).map(lambda n: line[:n])),
    st.tuples(st.sampled_from(LINES), st.text(max_size=20)).map("".join),
    st.text(max_size=40),
)


@st.composite
def damaged_offers(draw: st.DrawFn) -> str:
    """A browser's offer of which some lines are missing, moved, repeated, cut or nonsense."""
    lines = draw(st.sampled_from(sorted(SHAPES.values()))).splitlines()
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(lines)))
        lines[at : at + draw(st.integers(0, 2))] = draw(st.lists(PIECES, max_size=2))
    return draw(st.sampled_from(["\n", "\r\n", "\r", "\u2028"])).join(lines)


@settings(max_examples=500, deadline=None)
@given(damaged_offers())
def test_whatever_the_text_it_is_refused_or_aiortc_can_use_it(text: str) -> None:
    """The one documented error; or a description and an answer that parse, with the sections that were offered."""
    try:
        offer = read_offer(text)
    except OfferRefused:
        return
    (media,) = SessionDescription.parse(offer.description()).media
    assert media.ice_candidates == []
    answer = offer.answer(OURS)
    assert answer.isascii()
    assert len(re.findall(r"^m=", answer, re.MULTILINE)) == len(re.findall(r"^m=", text, re.MULTILINE))
    assert len(SessionDescription.parse(answer).media) == len(offer.sections)


GROWING = {
    "candidates": "a=candidate:1 1 udp 2113937151 192.0.2.7 54322 typ host\n",
    "attributes": "a=x\n",
    "fingerprints": FINGERPRINT + "\n",
    "payload types": "a=rtpmap:{n} opus/48000/2\n",
    "sources": "a=ssrc:{n} cname:x\n",
    "feedback": "a=rtcp-fb:* nack\n",
    "empty lines": "\n",
    "line ends": "\r\r\r\r\r\r\r\n",
    "groups": "a=group:BUNDLE 0 0 0 0 0 0 0 0 0 0\n",
    "format lists": " 111 111 111 111 111",
    "one long line": "x",
}


@pytest.mark.parametrize("what", GROWING)
def test_twice_as_long_takes_twice_as_long(what: str) -> None:
    """Up to the longest offer that is read: in calls, which no busy machine changes, and at most 0.1 s of CPU."""

    def read(chars: int) -> None:
        more = "".join(GROWING[what].format(n=n) for n in range(chars // len(GROWING[what])))[:chars]
        head, audio, tail = CHROMIUM.partition("m=audio 9 UDP/TLS/RTP/SAVPF 111")
        text = head + audio + more + tail if what == "format lists" else CHROMIUM + "a=y:" + more
        with contextlib.suppress(OfferRefused):
            read_offer(text)

    assert calls_of(lambda: read(56_000)) < 2.2 * calls_of(lambda: read(28_000)) + 100
    assert min(cpu_s(lambda: read(56_000)) for _ in range(5)) < 0.1


def calls_of(work: Callable[[], None]) -> int:
    """How many functions are called, those of C included."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def cpu_s(work: Callable[[], None]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s
