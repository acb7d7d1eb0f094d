"""Reads a caller's SDP offer: takes the few values a call needs, refuses unusable offers, and writes the server's SDP.

aiortc never sees a line that a caller wrote (docs/decisions/024). Reading takes time linear in the length of the offer.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

MAX_OFFER_CHARS = 64 * 1024
MAX_SECTIONS = 32
"""Browsers offer one section per track, and one for data."""
MAX_FINGERPRINTS = 8

_TOKEN = re.compile(r"[!-~]{1,64}")
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_MEDIA_LINE = re.compile(
    r"m=(?P<kind>[a-z]{1,16}) (?P<port>[0-9]{1,5})(/[0-9]{1,3})? (?P<profile>[A-Z/]{1,32}) (?P<formats>[!-~][ -~]*)"
)
_PAYLOAD_TYPE = re.compile(r"[0-9]{1,2}|1[01][0-9]|12[0-7]")
_DYNAMIC_PAYLOAD_TYPE = re.compile(r"9[6-9]|1[01][0-9]|12[0-7]")
_OPUS = re.compile(r"opus/48000(/2)?", re.IGNORECASE)
_CODEC = re.compile(r"[A-Za-z0-9.+-]{1,32}/[0-9]{1,6}(/[0-9]{1,2})?")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31,63}")

_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_SETUPS = ("actpass", "active", "passive")
_DIGEST_CHARS = {"sha-256": 32 * 3 - 1, "sha-384": 48 * 3 - 1, "sha-512": 64 * 3 - 1}
_AUDIO_PROFILES = ("UDP/TLS/RTP/SAVPF", "TCP/DTLS/RTP/SAVPF", "RTP/SAVPF")
_SINGLE = ("ice-ufrag", "ice-pwd", "setup", "mid")
_FLAGS = ("ice-lite", "rtcp-mux", "bundle-only")
_TRANSPORT_LINES = ("c=", "a=rtcp", "a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=setup:")
_CANDIDATE_LINES = ("a=candidate:", "a=end-of-candidates")
"""Lines of an answer that say how to reach this server."""
_LONGEST_QUOTE = 60


class OfferRefused(ValueError):  # noqa: N818  (the offer is at fault, the message says why)
    """The SDP offer cannot be answered; the message is for the caller."""


@dataclass(slots=True)
class _Section:
    """The attributes read from one part of the offer: the session part, or one m= section."""

    kind: str = ""
    port: int = 0
    profile: str = ""
    formats: tuple[str, ...] = ()
    values: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    fingerprints: dict[tuple[str, str], None] = field(default_factory=dict)
    codecs: dict[str, str] = field(default_factory=dict)
    bundle: tuple[str, ...] = ()

    def opus_payload_type(self) -> int | None:
        """The payload type of the first Opus in the section whose number aiortc accepts."""
        for number in self.formats:
            if _DYNAMIC_PAYLOAD_TYPE.fullmatch(number) and _OPUS.fullmatch(self.codecs.get(number, "")):
                return int(number)
        return None


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that a call can use. `sections` are all its m= sections; `index` selects the audio section answered."""

    ufrag: str
    password: str
    fingerprints: tuple[tuple[str, str], ...]
    setup: str
    payload_type: int
    direction: str
    index: int
    bundle: tuple[str, ...]
    sections: tuple[_Section, ...]

    def description(self) -> str:
        """The SDP passed to aiortc: one audio section, no candidates. aiortc learns addresses from checks."""
        return _text(
            "v=0",
            "o=- 0 0 IN IP4 0.0.0.0",
            "s=-",
            "t=0 0",
            f"m=audio 9 UDP/TLS/RTP/SAVPF {self.payload_type}",
            "c=IN IP4 0.0.0.0",
            f"a={self.direction}",
            "a=mid:0",
            "a=rtcp-mux",
            f"a=rtpmap:{self.payload_type} opus/48000/2",
            f"a=ice-ufrag:{self.ufrag}",
            f"a=ice-pwd:{self.password}",
            *(f"a=fingerprint:{algorithm} {value}" for algorithm, value in self.fingerprints),
            f"a=setup:{self.setup}",
        )

    def answer(self, ours: str) -> str:
        """The SDP answer for the caller: aiortc's answer to `description`, and every other section rejected.

        A rejected section has port 0. It stays in the bundle and repeats the transport lines. Browsers ignore them;
        clients built on aiortc refuse an answer without them, or wait for a separate transport. When an unused section
        is the first of the bundle, it stays, inactive: browsers refuse to move the audio to another section.
        """
        head, _, audio = ours.partition("m=audio ")
        audio_lines = _lines("m=audio " + audio)
        port = audio_lines[0].split(" ")[1]
        transport = [line for line in audio_lines if line.startswith(_TRANSPORT_LINES)]
        candidates = [line for line in audio_lines if line.startswith(_CANDIDATE_LINES)]
        lines = [line for line in _lines(head) if not line.startswith("a=group:")]
        bundle = self.bundle if self.sections[self.index].values.get("mid") in self.bundle else ()
        if bundle:
            lines.append(f"a=group:BUNDLE {' '.join(bundle)}")
        for index, section in enumerate(self.sections):
            if index == self.index:
                lines += _audio_of(section, audio_lines)
            elif bundle and section.values.get("mid") == bundle[0]:
                lines += _declined(section, port, transport + candidates)
            else:
                lines += _declined(section, "0", transport)
        return _text(*lines)


def read_offer(text: str) -> Offer:
    """Read an SDP offer. Raises OfferRefused, and no other error for any text."""
    session, sections = _parse(text)
    if "ice-lite" in session.flags:
        raise OfferRefused("the offer says a=ice-lite: a caller must make connectivity checks itself")
    mids = Counter(one.values["mid"] for one in sections if "mid" in one.values)
    if repeated := [mid for mid, times in mids.items() if times > 1]:
        raise OfferRefused(f"two sections of the offer have the same a=mid: {_quoted(repeated[0])}")
    used = {one.values["mid"] for one in sections if "mid" in one.values and one.port != 0}
    index, payload_type = _choose(sections)
    audio = sections[index]
    direction = _direction(audio, session)
    if direction not in ("sendrecv", "recvonly"):
        raise OfferRefused(
            f"the offer takes no audio: its audio section is {direction}, it must be sendrecv or recvonly"
        )
    if "rtcp-mux" not in audio.flags:
        raise OfferRefused("the audio section has no a=rtcp-mux: RTP and RTCP must share one port")
    levels = (audio, session)
    return Offer(
        ufrag=_required(levels, "ice-ufrag", _UFRAG, "4 to 256 letters, digits, + or /"),
        password=_required(levels, "ice-pwd", _PASSWORD, "22 to 256 letters, digits, + or /"),
        fingerprints=_fingerprints(levels),
        setup=_setup(levels),
        payload_type=payload_type,
        direction=direction,
        index=index,
        bundle=tuple(mid for mid in dict.fromkeys(session.bundle) if mid in used),
        sections=tuple(sections),
    )


def _parse(text: str) -> tuple[_Section, list[_Section]]:
    if len(text) > MAX_OFFER_CHARS:
        raise OfferRefused(f"the offer has {len(text)} characters; at most {MAX_OFFER_CHARS} are read")
    lines = _lines(text)
    if lines[0] != "v=0":
        raise OfferRefused(f"the offer is not SDP: it begins with {_quoted(text)} and must begin with v=0")
    session = part = _Section()
    sections: list[_Section] = []
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("m="):
            if len(sections) == MAX_SECTIONS:
                raise OfferRefused(f"the offer has more than {MAX_SECTIONS} m= sections")
            part = _media_line(line)
            sections.append(part)
        elif line.startswith("a="):
            _note_attribute(part, line[2:])
        elif line and line[1:2] != "=":
            raise OfferRefused(f"line {number} of the offer is not SDP: {_quoted(line)}")
    return session, sections


def _media_line(line: str) -> _Section:
    found = _MEDIA_LINE.fullmatch(line)
    if found is None or int(found["port"]) > 65_535:
        raise OfferRefused(f"an m= line is not understood: {_quoted(line)}")
    formats = tuple(found["formats"].split())
    form = _PAYLOAD_TYPE if found["kind"] in ("audio", "video") else _TOKEN
    if not all(map(form.fullmatch, formats)):
        raise OfferRefused(f"an m= line has formats that are not understood: {_quoted(line)}")
    return _Section(found["kind"], int(found["port"]), found["profile"], formats)


def _note_attribute(part: _Section, attribute: str) -> None:
    """Keep an attribute that a call needs; skip all others."""
    name, _, value = attribute.partition(":")
    if name in _FLAGS:
        part.flags.add(name)
    elif name in _DIRECTIONS:
        _note_once(part, "direction", name)
    elif name == "mid" and not _TOKEN.fullmatch(value):
        raise OfferRefused(f"a=mid is no word of up to 64 characters: {_quoted(value)}")
    elif name in _SINGLE:
        _note_once(part, name, value)
    elif name == "fingerprint":
        algorithm, _, digest = value.partition(" ")
        part.fingerprints[algorithm.lower(), digest.strip().upper()] = None
    elif name == "rtpmap":
        number, _, codec = value.partition(" ")
        part.codecs.setdefault(number, codec.strip())
    elif name == "group" and not part.bundle and value.startswith("BUNDLE "):
        part.bundle = tuple(value.split(" ")[1:])


def _note_once(part: _Section, name: str, value: str) -> None:
    if part.values.setdefault(name, value) != value:
        raise OfferRefused(f"the offer has two different values for {name} in one section")


def _choose(sections: list[_Section]) -> tuple[int, int]:
    """Index and Opus payload type of the first audio section that can be answered."""
    offered = [(index, section) for index, section in enumerate(sections) if section.kind == "audio"]
    audio = [(index, section) for index, section in offered if section.port != 0]
    if not audio and any("bundle-only" in section.flags for _, section in offered):
        raise OfferRefused(
            "the audio section shares the port of a section that a call has no use for (a=bundle-only): "
            "add the audio first, or leave bundlePolicy at 'balanced'"
        )
    if not audio:
        raise OfferRefused("the offer has no audio section (m=audio with a port)")
    secured = [(index, section) for index, section in audio if section.profile in _AUDIO_PROFILES]
    if not secured:
        raise OfferRefused(
            f"the profile of the audio section is {_quoted(audio[0][1].profile)}; it must be UDP/TLS/RTP/SAVPF"
        )
    for index, section in secured:
        if payload_type := section.opus_payload_type():
            return index, payload_type
    raise OfferRefused("the audio section does not offer Opus (a=rtpmap:N opus/48000/2, with N from 96 to 127)")


def _direction(audio: _Section, session: _Section) -> str:
    return audio.values.get("direction") or session.values.get("direction") or "sendrecv"


def _setup(levels: tuple[_Section, ...]) -> str:
    """The caller's DTLS role. An offer without one means actpass: the answerer chooses."""
    setup = next((one.values["setup"] for one in levels if "setup" in one.values), "actpass")
    if setup not in _SETUPS:
        raise OfferRefused(f"a=setup is {_quoted(setup)}; it must be actpass, active or passive")
    return setup


def _required(levels: tuple[_Section, ...], name: str, form: re.Pattern[str], must_be: str) -> str:
    """The first value, from the section up to the session. Errors do not quote it: a password is a secret."""
    value = next((one.values[name] for one in levels if name in one.values), None)
    if value is None:
        raise OfferRefused(f"the offer has no a={name} for its audio section")
    if not form.fullmatch(value):
        raise OfferRefused(
            f"a={name} has {len(value)} characters, or characters that it may not have; it must be {must_be}"
        )
    return value


def _fingerprints(levels: tuple[_Section, ...]) -> tuple[tuple[str, str], ...]:
    """The fingerprints of the caller's certificate with a known algorithm; others are skipped."""
    given = next((one.fingerprints for one in levels if one.fingerprints), {})
    if len(given) > MAX_FINGERPRINTS:
        raise OfferRefused(f"the offer has {len(given)} fingerprints; at most {MAX_FINGERPRINTS} are read")
    known = tuple(one for one in given if one[0] in _DIGEST_CHARS)
    if not known:
        raise OfferRefused("the offer has no a=fingerprint with sha-256, sha-384 or sha-512")
    for algorithm, value in known:
        if len(value) != _DIGEST_CHARS[algorithm] or not _HEX_PAIRS.fullmatch(value):
            raise OfferRefused(f"a=fingerprint is no {algorithm} digest in pairs of hex digits: {_quoted(value)}")
    return known


def _audio_of(section: _Section, ours: list[str]) -> list[str]:
    """The audio section of aiortc's answer, with the caller's mid and profile."""
    first, *rest = ours
    words = first.split(" ")
    words[2] = section.profile
    mid = section.values.get("mid")
    named = [f"a=mid:{mid}" if line.startswith("a=mid:") else line for line in rest]
    return [
        " ".join(words),
        *(line for line in named if mid or not line.startswith("a=mid:")),
        f"a=fmtp:{words[3]} usedtx=1",  # no packets of silence (microphone.py)
    ]


def _declined(section: _Section, port: str, transport: list[str]) -> list[str]:
    """The answer's lines for a section that carries nothing; port 0 rejects it."""
    number = section.formats[0]
    lines = [f"m={section.kind} {port} {section.profile} {number}", *transport]
    lines.append("a=sctp-port:5000" if section.kind == "application" else "a=inactive")
    if mid := section.values.get("mid"):
        lines.append(f"a=mid:{mid}")
    if number.isdecimal() and _CODEC.fullmatch(codec := section.codecs.get(number, "")):
        lines.append(f"a=rtpmap:{number} {codec}")
    return lines


def _lines(text: str) -> list[str]:
    """Split at CR LF or LF. Python's splitlines() would also split at characters that do not end an SDP line."""
    return [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]


def _text(*lines: str) -> str:
    return "".join(f"{line}\r\n" for line in lines)


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…")
