"""What a conversation looks like from outside, written down from the rules in the words of policy.py.

It knows no commands, versions, events or timers, but two questions about the user: may they go on (`may_go_on`), and
is their final still to come (`awaits_final`)? It imports nothing of the core.
"""

from dataclasses import dataclass, field
from typing import Any

WORDS = {"": 0, " ": 0, "...": 0, "ye": 1, "uh huh": 2, "yeah okay": 2, "stop": 1, "no wait": 2, "no wait a bit": 4}
WORDS |= {"嗯": 1, "好": 1, "请等": 2, "请等一下": 3, "เสือ": 1, "เสื้อ": 1, "C++": 1, "c#": 1, "don’t": 1, "Don't!": 1}
"""What users say here, and how many words it is."""
BACKCHANNELS = ("uh huh", "yeah", "okay", "嗯", "好的")
LISTENING_ALONG = ("uh huh", "yeah okay", "嗯")
MAY_BECOME_THAT = ("ye", "好", *LISTENING_ALONG)


@dataclass
class Turn:
    text: str
    via: str
    intent: str | None
    answer: str | None
    is_complete: bool = False
    ends: str = ""


@dataclass
class Guess:
    text: str
    open: set[str]
    intent: str | None = None
    answer: str | None = None


@dataclass
class Speech:
    what: str
    ends: str = ""
    is_paused: bool = False
    is_made: bool = False

    @property
    def can_be_interrupted(self) -> bool:
        return self.ends in ("", "goodbye", "user_away")


@dataclass
class NaiveModel:
    """`policy` as it is recorded; `now` in microseconds is set from outside."""

    policy: dict[str, Any]
    now: int = 0
    phase: str = "NEW"
    turns: int = 0
    turn: Turn | None = None
    speech: Speech | None = None
    held: str = ""
    held_via: str = ""
    voice: str = ""
    is_speaking: bool = False
    spoke_at: int = 0
    understood: str = ""
    understood_at: int = 0
    may_go_on: bool = False
    awaits_final: bool = False
    awaits_greeting: bool = False
    said: tuple[str, str, int] = ("", "", -1)
    """The last words, who said so, and when; -1: nobody did."""
    is_late: bool = False
    """Whether these words counted before their final, which may still come."""
    guess: Guess | None = None
    tries: int = 0
    prompts: int = 0
    times_over: int = 0
    failed: dict[str, int] = field(default_factory=lambda: {"answer": 0, "hearing": 0, "speech": 0})

    # What can be seen.

    @property
    def questions(self) -> set[str]:
        """What the services are being asked."""
        if self.turn is not None and self.phase == "THINKING" and not self.turn.is_complete:
            return {name for name in ("intent", "answer") if getattr(self.turn, name) is None}
        return self.guess.open if self.guess and self.phase == "LISTENING" else set()

    @property
    def late_words(self) -> str:
        """Words of which a final is still expected, and of nothing else: the user has not spoken since."""
        return self.said[0] if self.may_be_late and self.spoke_at <= self.said[2] else ""

    @property
    def may_be_late(self) -> bool:
        return self.is_late and self.now <= self.said[2] + self.policy["deadlines"]["stt_ms"] * 1000

    @property
    def is_quiet(self) -> bool:
        return not (self.is_speaking or self.may_go_on or self.awaits_final)

    # Who is there.

    def opens(self) -> None:
        self.phase = "IDLE"

    def connects(self) -> None:
        if self.phase == "IDLE":
            self.phase, self.understood = "LISTENING", ""
            self.awaits_greeting = bool(self.policy["greeting"]["text"])

    def attaches(self, voice: str) -> None:
        self.voice = voice
        if self.awaits_greeting and self.phase == "LISTENING":
            self.greets()

    def detaches(self, voice: str) -> None:
        """The agent speaks on: over the call that follows, or as text."""
        if self.voice == voice:
            self.voice, self.is_speaking = "", False
            self.goes_on()

    def resumes(self) -> None:
        """The new owner speaks on, but hears nothing of what was said to the old one."""
        self.voice, self.is_speaking, self.guess = "", False, None
        self.said, self.is_late = ("", "", -1), False
        self.goes_on()

    def ends(self) -> None:
        self.phase, self.turn, self.speech = "ENDED", None, None

    # What the user does.

    def starts_to_speak(self) -> None:
        if self.is_quiet:
            self.understood = ""
        self.is_speaking, self.spoke_at = True, self.now
        if self.phase != "IDLE":
            self.may_go_on, self.awaits_final = bool(self.understood), False
        if self.speech is not None and self.speech.can_be_interrupted:
            rules = self.policy["interruption"]
            if not rules["min_speech_ms"] and not rules["min_words"]:
                self.is_interrupted()
            elif rules["pause_playback"] and self.voice:
                self.speech.is_paused = True

    def stops_to_speak(self) -> None:
        self.is_speaking = False
        if self.phase != "IDLE":
            self.may_go_on = True
        if self.phase == "LISTENING":
            self.guesses()

    def is_understood(self, text: str, is_complete: bool) -> None:
        """A partial. One of words that have counted, without a new sound of the user, is late."""
        words, _, when = self.said
        in_time = self.spoke_at <= when and self.now <= when + self.policy["deadlines"]["stt_ms"] * 1000
        if words and in_time and is_same(words, text):
            return
        if text != self.understood:
            self.understood, self.understood_at = text, self.now
        if self.is_speaking and self.phase != "IDLE":
            self.may_go_on = True
        if self.phase == "LISTENING" and (is_complete or (self.may_go_on and not self.is_speaking)):
            self.guesses()
        if self.speech is not None and self.speech.can_be_interrupted and self.has_the_floor():
            self.is_interrupted()
            self.awaits_final = self.awaits_final or self.is_quiet

    def says(self, text: str, via: str, producer: str) -> None:
        """A final."""
        if self.phase in ("IDLE", "ENDED"):
            return
        again = via == "speech" and is_same(self.said[0], text) and self.may_repeat(text, producer)
        late = self.late_words if via == "speech" and not self.is_speaking else ""
        awaited = self.awaits_final and not (again and not spoken(text).startswith(spoken(self.understood)))
        words = "" if again else text.strip()
        self.awaits_final = self.awaits_final and not words and not awaited
        if words:
            said = (words, producer, self.now) if via == "speech" else self.said
            self.is_late = self.is_late and via != "speech"
            self.said, self.understood, self.is_speaking = said, "", False
        elif awaited:
            self.nothing_was_said()
        elif again and self.is_late:
            self.is_no_longer_late(producer)
        match self.phase:
            case "LISTENING" if words:
                self.begins(words, via)
            case "THINKING" if words:
                self.more(words, via, late)
            case "INTERRUPT" if words:
                self.holds(words, via, late)
            case "SPEAKING":
                self.says_over_the_agent(text.strip(), words, via, awaited, again)
            case "THINKING" if awaited and self.is_quiet:
                self.answers_if_it_waits()

    def is_no_longer_late(self, producer: str) -> None:
        if self.late_words:
            self.understood, self.is_speaking = "", False
        self.said, self.is_late = (self.said[0], producer, self.said[2]), False

    def may_repeat(self, text: str, producer: str) -> bool:
        """Whether these words, which were said before, can be the same ones."""
        _, who, when = self.said
        if self.is_late:
            goes_with_next = self.spoke_at <= when or spoken(text).startswith(spoken(self.understood))
            return self.may_be_late and not (self.awaits_final and goes_with_next)
        return when >= 0 and who != producer and self.now <= when + self.policy["deadlines"]["stt_ms"] * 1000

    def says_over_the_agent(self, text: str, words: str, via: str, awaited: bool, again: bool) -> None:
        assert self.speech is not None
        rules = self.policy["interruption"]
        listens = text in LISTENING_ALONG and not self.is_about_to_end()
        if text and (
            not self.speech.can_be_interrupted or (via == "speech" and (listens or WORDS[text] < rules["min_words"]))
        ):
            self.awaits_final = self.speech.is_paused = False
        elif words:
            self.is_interrupted()
            self.holds(words, via)
        elif not self.is_speaking and (awaited or not again):
            self.speech.is_paused = False

    def barges_in(self, playback: str) -> None:
        if self.speech is not None and self.speech.can_be_interrupted and playback in ("", self.speech.what):
            self.is_interrupted()

    def has_the_floor(self) -> bool:
        """Whether voice and words so far are enough to interrupt."""
        rules = self.policy["interruption"]
        if self.understood in MAY_BECOME_THAT and not self.is_about_to_end():
            return False
        if WORDS[self.understood] < rules["min_words"]:
            return False
        if self.is_speaking:
            return self.now - self.spoke_at >= rules["min_speech_ms"] * 1000
        return WORDS[self.understood] > 0

    def is_about_to_end(self) -> bool:
        return self.speech is not None and self.speech.is_made and bool(self.policy["interruption"]["boundary_ms"])

    def is_interrupted(self) -> None:
        self.phase, self.speech, self.turn = "INTERRUPT", None, None

    def holds(self, words: str, via: str, late: str = "") -> None:
        self.held, self.held_via = f"{self.held.removesuffix(late).rstrip()} {words}".strip(), via

    # Turns.

    def listens(self) -> None:
        self.phase, self.turn, self.speech = "LISTENING", None, None
        self.understood = "" if self.is_quiet else self.understood
        if self.times_over:
            self.announces("farewell", "time_limit")
        elif self.held:
            self.begins(self.held, self.held_via)

    def begins(self, text: str, via: str) -> None:
        guess = self.guess if self.guess and is_same(self.guess.text, text) else None
        self.turn = Turn(text, via, guess and guess.intent, guess and guess.answer)
        if self.policy["intent"]["skip"]:
            self.turn.intent = ""
        if self.turn.answer is not None:
            self.failed["answer"] = 0
        self.phase, self.turns = "THINKING", self.turns + 1
        self.guess, self.tries, self.prompts, self.failed["hearing"] = None, 0, 0, 0
        self.held = self.understood = ""
        self.may_go_on = self.awaits_final = self.awaits_greeting = False
        self.joins()

    def more(self, words: str, via: str, late: str = "") -> None:
        """Words while the agent thinks. `late`: what they are the final of, and replace."""
        assert self.turn is not None
        before, joins = self.turn.text, self.policy["thinking"]["more_words"] == "merge"
        before = before.removesuffix(late).strip()
        repeats = not before or goes_on(spoken(words), spoken(before))
        joins = joins and self.turn.via == via == "speech" and not repeats
        self.begins(f"{before} {words}" if joins else words, via)

    def knows(self, what: str, result: str) -> None:
        """A service has answered."""
        asked = self.turn or self.guess
        assert asked is not None
        setattr(asked, what, result)
        if self.turn is None:
            self.guess.open.discard(what)  # type: ignore[union-attr]
            return
        if what == "answer":
            self.failed["answer"] = 0
        self.joins()

    def does_not_know(self, what: str) -> None:
        """A service has failed, or is late."""
        if self.turn is None:
            self.guess = None
        elif what == "intent":
            self.turn.intent = ""
            self.joins()
        else:
            self.failed["answer"] += 1
            limit = self.policy["fallback"]["failures"]
            self.completes("too_many_failures" if limit and self.failed["answer"] >= limit else "")

    def joins(self) -> None:
        assert self.turn is not None
        if self.turn.intent is not None and self.turn.answer is not None:
            goodbye = self.policy["goodbye"]["intent"]
            self.completes("goodbye" if self.turn.intent and self.turn.intent == goodbye else "")

    def completes(self, ends: str) -> None:
        assert self.turn is not None
        self.turn.is_complete, self.turn.ends = True, ends
        if self.is_quiet:
            self.answers_if_it_waits()

    def answers_if_it_waits(self) -> None:
        if self.turn is not None and self.turn.is_complete:
            self.phase, self.speech = "SPEAKING", Speech(f"answer-{self.turns}", self.turn.ends)

    def announces(self, what: str, ends: str = "") -> None:
        self.phase, self.speech, self.awaits_greeting = "SPEAKING", Speech(what, ends), False
        if self.guess:
            self.guess.open = set()

    def is_heard(self) -> None:
        """What the agent said was played to its end."""
        self.failed["speech"] = 0
        assert self.speech is not None
        if self.speech.can_be_interrupted and not self.is_quiet:
            more = WORDS[self.understood] > 0 and self.understood not in MAY_BECOME_THAT
            if self.speech.ends == "user_away" or more:
                self.speech.ends = ""
        self.is_over()

    def cannot_speak(self) -> None:
        assert self.speech is not None
        self.failed["speech"] += 1
        limit = self.policy["fallback"]["failures"]
        if limit and self.failed["speech"] >= limit:
            self.speech.ends = self.speech.ends or "too_many_failures"
        self.is_over()

    def is_over(self) -> None:
        assert self.speech is not None
        if self.speech.ends:
            self.ends()
        else:
            self.listens()

    # Guesses.

    def guesses(self) -> None:
        text = self.understood.strip()
        asked = self.guess is not None and is_same(self.guess.text, text)
        if text and not asked and self.tries < self.policy["speculation"]["tries"]:
            self.tries += 1
            self.guess = Guess(text, {"answer"} if self.policy["intent"]["skip"] else {"intent", "answer"})

    def guesses_if_stable(self) -> None:
        if self.understood_at + self.policy["speculation"]["stable_ms"] * 1000 <= self.now:
            self.guesses()

    def is_not_heard(self) -> None:
        """Speech-to-text has lost an utterance."""
        if self.late_words:
            return
        self.failed["hearing"] += 1
        if self.phase == "LISTENING":
            self.asks_again()

    def asks_again(self) -> None:
        limit, fallback = self.policy["fallback"]["failures"], self.policy["fallback"]
        if not self.is_quiet:
            return
        if limit and self.failed["hearing"] >= limit:
            self.announces("farewell", "too_many_failures")
        elif self.failed["hearing"] and fallback["unheard"]:
            self.announces("unheard")

    def nothing_was_said(self) -> None:
        self.guess, self.tries, self.understood = None, 0, ""

    # Time.

    def timer(self, name: str) -> None:
        """Something is due; nothing can be seen of the rest."""
        due = {
            "answer_deadline": lambda: self.does_not_know("answer"),
            "away": self.seems_away,
            "barge_in": lambda: self.has_the_floor() and self.is_interrupted(),
            "endpoint": self.silence_has_lasted,
            "false_interruption": self.goes_on,
            "floor_deadline": self.answers_if_it_waits,
            "greeting": self.greets,
            "intent_deadline": lambda: self.does_not_know("intent"),
            "interrupt_pause": self.listens,
            "playback_deadline": self.cannot_speak,
            "reconnect": self.ends,
            "session_limit": self.time_is_over,
            "stable": self.guesses_if_stable,
            "stt_deadline": self.final_is_missing,
            "tts_deadline": self.cannot_speak,
        }
        due.get(name, lambda: None)()

    def goes_on(self) -> None:
        """The agent, where it was paused."""
        if self.speech is not None:
            self.speech.is_paused = False

    def greets(self) -> None:
        self.awaits_greeting = False
        if self.is_quiet:
            self.announces("greeting")

    def seems_away(self) -> None:
        if self.is_quiet and self.prompts < self.policy["away"]["prompts"]:
            self.prompts += 1
            self.announces("away")
        elif self.is_quiet:
            self.announces("farewell", "user_away")

    def time_is_over(self) -> None:
        self.times_over += 1
        if self.phase == "IDLE":
            self.ends()
        elif self.phase == "LISTENING" and (self.is_quiet or self.times_over > 1):
            self.announces("farewell", "time_limit")

    def silence_has_lasted(self) -> None:
        """Or, while the user speaks, their words have not changed for long."""
        changed = self.understood_at + self.policy["endpointing"]["watchdog_ms"] * 1000 > self.now
        if not (self.is_speaking and changed):
            self.may_go_on, self.awaits_final = False, True

    def final_is_missing(self) -> None:
        self.awaits_final = False
        words = self.understood.strip()
        if not words:
            self.nothing_was_said()
        elif self.phase in ("LISTENING", "THINKING", "INTERRUPT"):
            self.said, self.is_late = (words, "", self.now), True
        if self.phase == "INTERRUPT" and words:
            self.holds(words, "speech")
        if self.phase not in ("LISTENING", "THINKING"):
            self.understood = ""
        if self.phase == "LISTENING" and words:
            self.begins(words, "speech")
        elif self.phase == "THINKING" and words:
            self.more(words, "speech")
        elif self.phase == "LISTENING":
            self.asks_again()
        elif self.phase == "THINKING" and self.is_quiet:
            self.answers_if_it_waits()


def spoken(text: str) -> str:
    return " ".join(text.lower().replace("’", "'").strip("!. ").split())


def is_same(one: str, other: str) -> bool:
    return one == other or spoken(one) == spoken(other) != ""


def goes_on(words: str, before: str) -> bool:
    """Whether words repeat those before and go on; 请等 is the one pair here without a blank."""
    return before != "" and (f"{words} ".startswith(f"{before} ") or (words, before) == ("请等一下", "请等"))
