"""Echo: the agent's own voice in the microphone interrupts nobody, and callers who speak over the agent do.

Faster than real time. The microphone hears the agent at −6, −12 and −20 dB after 20 to 200 ms; callers are people (the
recordings in the recogniser's package) or the agent's own voice with other words.
"""

import importlib.util
from array import array
from functools import cache
from pathlib import Path

import av
import pytest

from orchestrator.media.echo import EchoGuard, LoudnessGuard, open_echo_guard
from orchestrator.media.echo_canceller import BLOCK, EchoCanceller
from orchestrator.media.opus import RATE_HZ, audio_frame
from orchestrator.media.resampling import ToSpeechRate
from orchestrator.media.settings import MediaSettings
from orchestrator.media.speech_model import OnnxSilero, open_speech_model
from orchestrator.media.vad import Offset, Onset, VoiceActivity, loudness_rms
from tests.media.speech import resample, scaled, speak

DEFAULTS = MediaSettings()
SECOND = bytes(32_000)
FRAME = 640
"""20 ms at 16 kHz."""
LEVELS = {-6: 0.5, -12: 0.25, -20: 0.1}
AGENT = "We are open from eight in the morning until six in the evening. On Sundays we close at two in the afternoon."
UNKNOWN_MS = 400
"""Until then, an echo in the first words of a call may not have been found."""
AT_MS = 3_000
"""When a caller begins to speak over the agent."""


def agent() -> bytes:
    return speak(AGENT)


@cache
def person(name: str) -> bytes:
    """A person's speech, six seconds, as loud as the agent."""
    package = importlib.util.find_spec("moonshine_voice")
    assert package is not None
    assert package.origin is not None
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with av.open(str(Path(package.origin).with_name("assets") / f"{name}.wav")) as clip:
        frames = [out for frame in clip.decode(audio=0) for out in resampler.resample(frame)]
    pcm = b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in frames)[: 6 * 32_000]
    return scaled(pcm, loudness_rms(agent()) / loudness_rms(pcm))


def other_words() -> bytes:
    return speak("Actually, can I change my order to a large cappuccino with oat milk, please?")


CALLERS = {
    "beckett": lambda: person("beckett"),
    "nell": lambda: person("endgame_nagg_nell"),
    "the agent's own voice": other_words,
}


def delayed(pcm: bytes, ms: int) -> bytes:
    return (bytes(32 * ms) + pcm)[: len(pcm)]


def mixed(one: bytes, other: bytes, at_ms: int = 0) -> bytes:
    """`other` over `one`, from `at_ms` on; as long as `one`."""
    samples = array("h", one)
    for at, sample in enumerate(array("h", other)[: len(samples) - 16 * at_ms], 16 * at_ms):
        samples[at] = max(-32_768, min(32_767, samples[at] + sample))
    return samples.tobytes()


def onsets_ms(microphone: bytes, *, together: int = 1) -> list[int]:
    """When speech begins in a microphone while the agent speaks, as a call's media layer hears both.

    The microphone's packets arrive so many `together`.
    """
    guard, activity = EchoCanceller(DEFAULTS, LoudnessGuard(DEFAULTS)), VoiceActivity(DEFAULTS, open_speech_model())
    frames = [resample(agent()[at : at + FRAME], 16_000, 48_000) for at in range(0, len(agent()), FRAME)]
    found: list[Onset | Offset] = []
    guard.heard(bytes(FRAME), 9.98)  # the call began before the agent spoke
    for at, frame in enumerate(frames, 1):
        now_s = 10 + at * 0.02
        guard.played(frame, now_s)
        if at % together == 0:
            for begin in range((at - together) * FRAME, at * FRAME, FRAME):
                found += activity.feed(*guard.heard(microphone[begin : begin + FRAME], now_s + 0.001))
    return [one.at_ms for one in found if isinstance(one, Onset)]


@pytest.mark.parametrize("delay_ms", [20, 60, 120, 200])
@pytest.mark.parametrize("level", LEVELS)
def test_the_agents_echo_is_not_speech(level: int, delay_ms: int) -> None:
    """At no level and no delay. The loudest may be taken for a caller once, before anybody can know that it is one."""
    found = onsets_ms(delayed(scaled(agent(), LEVELS[level]), delay_ms))
    assert [at for at in found if at > UNKNOWN_MS or level == -20] == []


@pytest.mark.parametrize("together", [2, 4])
def test_the_echo_is_found_in_packets_that_come_in_bursts(together: int) -> None:
    """A network that holds 80 ms back: the agent's sound and its echo keep their distance."""
    found = onsets_ms(delayed(scaled(agent(), 0.5), 60), together=together)
    assert [at for at in found if at > UNKNOWN_MS] == []


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("level", LEVELS)
def test_speech_over_an_echo_as_loud_as_itself_is_heard(level: int, caller: str) -> None:
    """Nothing before it, and the caller within half a second of where they are heard alone."""
    echo, speech = (scaled(pcm, LEVELS[level]) for pcm in (agent(), CALLERS[caller]()))
    (alone, *_) = VoiceActivity(DEFAULTS, OnnxSilero()).feed(speech + SECOND)
    begins_ms = AT_MS + alone.at_ms
    (first_ms, *_) = (at for at in onsets_ms(mixed(delayed(echo, 80), speech, AT_MS)) if at > UNKNOWN_MS)
    assert begins_ms - 100 <= first_ms <= begins_ms + 600


@pytest.mark.parametrize("caller", CALLERS)
def test_a_caller_with_headphones_is_heard_at_once(caller: str) -> None:
    """AEC3 alone takes such a caller for an echo, for some two seconds."""
    speech = scaled(CALLERS[caller](), 0.5)
    (alone, *_) = VoiceActivity(DEFAULTS, OnnxSilero()).feed(speech + SECOND)
    (first_ms, *_) = onsets_ms(mixed(bytes(len(agent())), speech, AT_MS))
    assert abs(first_ms - AT_MS - alone.at_ms) <= 200


@pytest.mark.parametrize("caller", CALLERS)
def test_a_quiet_caller_with_headphones_is_heard_as_early(caller: str) -> None:
    """Far below the agent's loudness: three seconds of silence beside it have shown that nothing comes back."""
    speech = scaled(CALLERS[caller](), 0.15)
    (alone, *_) = VoiceActivity(DEFAULTS, OnnxSilero()).feed(speech + SECOND)
    (first_ms, *_) = onsets_ms(mixed(bytes(len(agent())), speech, AT_MS))
    assert abs(first_ms - AT_MS - alone.at_ms) <= 200


@pytest.mark.parametrize("caller", CALLERS)
def test_a_caller_who_speaks_over_the_first_words_is_heard(caller: str) -> None:
    """Before anybody can know whether there is an echo."""
    speech = scaled(CALLERS[caller](), 0.5)
    (alone, *_) = VoiceActivity(DEFAULTS, OnnxSilero()).feed(speech + SECOND)
    (first_ms, *_) = onsets_ms(mixed(bytes(len(agent())), speech, 100))
    assert first_ms - 100 - alone.at_ms <= 800


def test_an_echo_that_begins_in_mid_call_is_found() -> None:
    """The caller switches to the loudspeaker: one false start at most."""
    echo = delayed(scaled(agent(), 0.5), 100)
    silent = bytes(32 * AT_MS) + echo[32 * AT_MS :]
    assert len(onsets_ms(silent)) <= 1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("ends_ms", [1_000, 2_000, 5_000])
def test_an_echo_that_ends_in_mid_call_leaves_nothing_of_itself(ends_ms: int, level: int) -> None:
    """The caller puts headphones on: what would have been taken out of the sound is not put into it."""
    echo = delayed(scaled(agent(), LEVELS[level]), 100)
    until = 32 * ends_ms
    found = onsets_ms(echo[:until] + bytes(len(echo) - until))
    assert [at for at in found if at > UNKNOWN_MS] == []


def onsets_of_answers(guard: EchoGuard, level: float, delay_ms: int, phase: int = 0, padding_ms: int = 0) -> list[int]:
    """When speech begins in a microphone that hears five answers of the agent and nothing else, and rests between them
    as browsers do: a packet in 400 ms, `phase` packets before the first. `padding_ms`: silence at both ends of answers.
    """
    answer = bytes(32 * padding_ms) + agent()[: 32 * 2_500] + bytes(32 * padding_ms)
    said: list[bytes | None] = []
    for gap_ms in (1_000, 3_000, 3_100, 3_200, 3_300):
        said += [None] * (gap_ms // 20)
        said += [answer[at : at + FRAME] for at in range(0, len(answer), FRAME)]
    echo = delayed(scaled(b"".join(frame or bytes(FRAME) for frame in said), level), delay_ms)
    activity = VoiceActivity(DEFAULTS, open_speech_model())
    found: list[Onset | Offset] = []
    hole, silent_frames, rested = b"", 0, phase
    for number, frame in enumerate(said):
        now_s = 10 + number * 0.02
        if frame is not None:
            guard.played(resample(frame, 16_000, 48_000), now_s)
        heard = echo[number * FRAME : (number + 1) * FRAME]
        silent_frames = 0 if loudness_rms(heard) > 20 else silent_frames + 1
        rested = rested + 1 if silent_frames > 10 and not activity.speaking else phase
        if rested == phase or rested % 20 == 0:
            found += activity.feed(*guard.heard(hole + heard, now_s + 0.001))
            hole = b""
        else:
            hole += heard
    return [one.at_ms for one in found if isinstance(one, Onset)]


@pytest.mark.parametrize("phase", [0, 5, 10, 15])
@pytest.mark.parametrize("delay_ms", [60, 200])
@pytest.mark.parametrize("level", LEVELS)
def test_a_microphone_that_rests_knows_where_the_next_answer_is(level: int, delay_ms: int, phase: int) -> None:
    """Its time moves 400 ms at once; an answer may begin at any of them. Only in the first may an echo be unknown."""
    found = onsets_of_answers(EchoCanceller(DEFAULTS, LoudnessGuard(DEFAULTS)), LEVELS[level], delay_ms, phase)
    assert [at for at in found if at > 3_500] == []


@pytest.mark.parametrize("padding_ms", [0, 300, 600])
def test_the_agents_pauses_prove_nothing(padding_ms: int) -> None:
    """Silence beside an agent that says nothing either does not show that nothing comes back."""
    assert onsets_of_answers(LoudnessGuard(DEFAULTS), 0.2, 120, padding_ms=padding_ms) == []


def test_sounds_that_come_again_and_again_are_echo_after_all() -> None:
    """A canceller lets 300 ms through now and then. The silence between has to last twice as long each time."""
    guard, activity = LoudnessGuard(DEFAULTS), VoiceActivity(DEFAULTS, open_speech_model())
    said = (agent() + agent() + agent())[: 32 * 30_000]
    found: list[Onset | Offset] = []
    for at in range(0, len(said), FRAME):
        now_s = 10 + at / 32_000
        guard.played(resample(said[at : at + FRAME], 16_000, 48_000), now_s)
        leaks = at // 32 % 3_000 >= 2_700
        found += activity.feed(
            *guard.heard(scaled(said[at : at + FRAME], 0.2) if leaks else bytes(FRAME), now_s + 0.001)
        )
    assert len([one for one in found if isinstance(one, Onset)]) <= 3


def test_a_microphone_that_was_gone_has_its_echo_taken_out() -> None:
    """Two seconds without a packet while the agent speaks; nothing is kept for it meanwhile."""
    guard, activity = EchoCanceller(DEFAULTS, LoudnessGuard(DEFAULTS)), VoiceActivity(DEFAULTS, open_speech_model())
    echo = delayed(scaled(agent(), 0.5), 60)
    guard.heard(bytes(FRAME), 9.98)
    found: list[Onset | Offset] = []
    for at in range(len(agent()) // FRAME):
        now_s = 10 + at * 0.02
        guard.played(resample(agent()[at * FRAME : (at + 1) * FRAME], 16_000, 48_000), now_s)
        if not 50 <= at < 150:
            found += activity.feed(*guard.heard(echo[at * FRAME : (at + 1) * FRAME], now_s + 0.001))
    assert [one.at_ms for one in found if isinstance(one, Onset) and one.at_ms > UNKNOWN_MS] == []


def test_after_the_agent_the_same_sound_is_speech() -> None:
    """Half a second after its last word, and unchanged."""
    guard, activity = open_echo_guard(DEFAULTS), VoiceActivity(DEFAULTS, open_speech_model())
    guard.played(resample(agent()[:FRAME], 16_000, 48_000), 1.0)
    sound, echo_rms = guard.heard(agent()[:FRAME], 1.6)
    assert (sound, echo_rms) == (agent()[:FRAME], 0)
    assert isinstance(activity.feed(agent())[0], Onset)


@pytest.mark.parametrize("pieces", [[640] * 50, [608, *[640] * 49], [2, 30_000, 318, 320, 322]])
def test_no_sound_is_lost_or_made(pieces: list[int]) -> None:
    """Whatever the pieces, across the moments in which the agent begins and ends."""
    guard = open_echo_guard(DEFAULTS)
    at = heard = 0
    for number, size in enumerate(pieces):
        if number in (1, 2):
            guard.played(resample(agent()[:FRAME], 16_000, 48_000), number * 0.02)
        heard += len(guard.heard(agent()[at : at + size], number * 0.02)[0])
        at += size
    heard += len(guard.heard(b"\0\0", 60.0)[0]) - 2
    assert heard == at


def test_without_the_packages_quiet_sound_is_echo(monkeypatch: pytest.MonkeyPatch, sentence: bytes) -> None:
    """The agent's voice at −20 dB is ignored while it plays, and heard when it does not."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    guard, activity = open_echo_guard(DEFAULTS), VoiceActivity(DEFAULTS, OnnxSilero())
    assert isinstance(guard, LoudnessGuard)
    found = []
    for at in range(0, len(sentence), FRAME):
        guard.played(sentence[at : at + FRAME], at / 32_000)
        found += activity.feed(*guard.heard(scaled(sentence[at : at + FRAME], 0.1), at / 32_000))
    assert found == []
    assert isinstance(activity.feed(SECOND + scaled(sentence, 0.1))[0], Onset)


def test_a_callers_first_words_are_free_for_as_long_with_the_canceller() -> None:
    """The sound that fills no block yet is counted once, however the packets are cut."""
    counted: list[int] = []

    class Counts(LoudnessGuard):
        def heard(self, pcm: bytes, now_s: float) -> tuple[bytes, int]:
            counted.append(len(pcm))
            return super().heard(pcm, now_s)

    guard, to_speech_rate = EchoCanceller(DEFAULTS, Counts(DEFAULTS)), ToSpeechRate()
    frames = [resample(agent()[at : at + FRAME], 16_000, 48_000) for at in range(0, 100 * FRAME, FRAME)]
    fed = 0
    for number, frame in enumerate(frames):
        guard.played(frame, number * 0.02)
        pcm = to_speech_rate.feed(audio_frame(frame, RATE_HZ))
        fed += len(pcm)
        guard.heard(pcm, number * 0.02 + 0.001)
    assert abs(sum(counted) - fed) <= 2 * BLOCK


def test_the_threshold_of_loudness(sentence: bytes) -> None:
    """0 while the agent is silent, the floor while it is quiet, a share of its loudness otherwise."""
    guard = LoudnessGuard(DEFAULTS)
    assert guard.heard(b"", 0.0)[1] == 0
    guard.played(bytes(1920), 1.0)
    assert guard.heard(b"", 1.1)[1] == DEFAULTS.echo_floor_rms
    guard.played(scaled(sentence[8000:9920], 2.0), 1.2)
    loud = guard.heard(b"", 1.3)[1]
    assert loud > DEFAULTS.echo_floor_rms
    assert guard.heard(b"", 1.69)[1] == loud
    assert guard.heard(b"", 1.71)[1] == 0


def test_an_interruption_as_loud_as_the_agent_passes_the_threshold(sentence: bytes) -> None:
    guard, activity = LoudnessGuard(DEFAULTS), VoiceActivity(DEFAULTS, OnnxSilero())
    guard.played(sentence[:6400], 0.0)
    assert isinstance(activity.feed(*guard.heard(sentence, 0.1))[0], Onset)
