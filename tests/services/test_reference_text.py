"""The reference intent and answer services, and the content that they are taught."""

from pathlib import Path
from random import Random

import pytest
from rapidfuzz import fuzz

from orchestrator.reference.answers import DONT_KNOW, FolderAnswers
from orchestrator.reference.content import Content, load_content, parse_sections, speakable
from orchestrator.reference.intent import PhraseIntents, is_negated
from orchestrator.services.failures import ServiceError


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("hello", "greeting"),
        ("Hello!", "greeting"),
        ("What can you do?", "capabilities"),
        ("hi, what are your opening hours", "opening_hours"),
        ("Mmm, I want to change...", "change_booking"),
        ("i want to change my order please", "change_booking"),
        ("what’s your address", "address"),
        ("stop", "stop"),
        ("stop talking now", "stop"),
        ("thanks", "thanks"),
        ("goodbye", "goodbye"),
        ("good bye", "goodbye"),
        ("what's your location", "address"),
        ("i'd like to reserve a spot for four", "book_table"),
        ("we can't make it tonight", "cancel_booking"),
        ("i won't be able to come, please drop my reservation", "cancel_booking"),
        ("let me talk to an employee", "speak_to_person"),
        ("i need a human", "speak_to_person"),
        ("what are you open", "opening_hours"),  # as a recogniser may hear it
        ("tell me about quantum physics", "unknown"),
        ("", "unknown"),
        ("?!", "unknown"),
    ],
)
def test_what_people_say_is_understood_by_its_likeness(content: Content, text: str, intent: str) -> None:
    """Exact words, other words, more words, fillers; and "unknown" rather than a bold guess."""
    found = PhraseIntents(content.intents, content.fillers).match(text)
    assert found.intent == intent
    assert 0 <= found.confidence_permille <= 1000


def test_the_likeness_is_half_the_words_shared_and_half_the_words_sorted(content: Content) -> None:
    """The best of all examples that count, by the library's own two ratios, for 300 mixtures of known words."""
    known, random = " ".join(content.phrases()).split(), Random(7)
    partial = [intent for intent in content.intents if not intent.is_whole]
    intents = PhraseIntents(partial, content.fillers)
    examples = [(intents.normalize(one), intent.heeds_not) for intent in partial for one in intent.examples]
    for _ in range(300):
        spoken = intents.normalize(" ".join(random.choices(known, k=random.randint(1, 40))))
        said = without_not(spoken)
        counting = [
            fuzz.token_set_ratio(said, without_not(one)) + fuzz.token_sort_ratio(said, without_not(one))
            for one, heeds_not in examples
            if is_negated(one) == is_negated(spoken) or not heeds_not
        ]
        assert intents.match(spoken).confidence_permille == round(5 * max(counting))


def without_not(text: str) -> str:
    return " ".join(word for word in text.split() if word != "not")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "Hi! How can I help?"),
        ("when are you open", "We are open every day"),
        ("what about holidays", "We are open every day"),
        ("where are you", "twelve Harbour Street"),
        ("can i park my car somewhere", "car park"),
        ("i want to change my order", "we can change that"),
        ("do you have oat milk", "oat milk"),
        ("stop", "All right."),
        ("goodbye", "Goodbye!"),
        ("Can I bring my dog?", "Dogs are welcome"),
        ("Do you have wifi?", "wifi is free"),
        ("Can I pay by card?", "pay by card"),
        ("Could we sit outside in the sun?", "tables outside"),
        ("Is there a toilet for a wheelchair?", "no steps"),
        ("Is there anything vegetarian?", "always vegan"),
        ("We can't make it tonight.", "I can cancel that"),
        ("I'd like to speak to a human, please.", "call you back"),
        ("How much is a cappuccino?", "three euros"),
        ("Could I reserve a table for six tomorrow evening?", "you can book a table"),
        ("What can I order?", "We serve breakfast"),
        ("Is the cafe open?", "open every day"),
    ],
)
def test_questions_are_answered_from_the_content(content: Content, text: str, said: str) -> None:
    """By direct answers, by questions that stand there, and by search."""
    assert said in FolderAnswers(content).find(text).answer


@pytest.mark.parametrize(
    "text",
    [
        "I will be able to come",
        "We can make it",
        "We can make it tonight.",
        "We can come tonight",
        "I can come",
        "Please don't cancel my booking",
        "Please do not cancel my booking.",
        "don't cancel it",
        "Do not cancel!",
        "I don’t want to cancel",
        "We don't need to cancel our reservation, we can come.",
        "I would like to order",
        "I'd like to order a coffee",
        "can I order",
        "I want to order food",
        "could I order something",
        "I want to make an order",
        "where is my order",
        "how do I order",
        "I don't want to change my booking",
        "I don't need a table",
        "I don't need a table for two",
        "We don't want a table for two tonight",
        "Could you not cancel my booking, please?",
    ],
)
def test_nobody_hears_the_opposite_of_what_they_said_confirmed(content: Content, text: str) -> None:
    """No cancellation that nobody asked for, and no change or booking that is not wanted."""
    said = FolderAnswers(content).find(text).answer
    assert "cancel that" not in said
    assert "change that" not in said
    assert "can book" not in said or "don't" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("You're not open today?", "open every day"),
        ("I'm not sure when you close", "open every day"),
        ("I don't know when you open", "open every day"),
        ("you're not open tomorrow", "open every day"),
        ("Isn't the cafe open today", "open every day"),
        ("is your cafe not open on Sunday", "On Sundays we open"),
        ("when aren't you open", "open every day"),
        ("I can't find you", "twelve Harbour Street"),
        ("I can't find your address", "twelve Harbour Street"),
        ("I do not know how to get there", "Take the tram"),
        ("I'm not from here where can I park my car", "car park"),
        ("I can't eat gluten", "without gluten"),
        ("you don't take credit cards?", "by card"),
        ("you don't have wifi?", "wifi is free"),
        ("aren't dogs allowed", "Dogs are welcome"),
        ("are dogs not allowed", "Dogs are welcome"),
        ("I haven't booked a table yet, can I book one?", "you can book a table"),
        ("I can't come in with a wheelchair", "no steps"),
    ],
)
def test_a_question_about_the_cafe_has_its_answer_with_and_without_not(content: Content, text: str, said: str) -> None:
    """The opposite of a question is the same question; only what the agent would do has an opposite that harms."""
    assert said in FolderAnswers(content).find(text).answer


@pytest.mark.parametrize(
    "text",
    [
        "I'm not sure",
        "that's not right",
        "I don't want to speak to a person",
        "that was not helpful",
        "I do not have to go",
        "I don't have to go yet",
    ],
)
def test_what_the_agent_would_do_or_confirm_is_not_heard_in_its_opposite(content: Content, text: str) -> None:
    """Whichever intent hears it, it is none of these."""
    answers = FolderAnswers(content)
    assert answers.intents.match(text).intent not in {"affirm", "speak_to_person", "thanks", "goodbye"}
    assert "call you back" not in answers.find(text).answer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Can I order food?", "order at the counter"),
        ("I want to cancel my order", "can cancel that"),
        ("I can't make it.", "can cancel that"),
        ("I can't come", "can cancel that"),
        ("We won't make it", "can cancel that"),
        ("Can't I cancel my booking?", "can cancel that"),
        ("Don't you have wifi?", "wifi is free"),
        ("Aren’t you open on Sunday?", "On Sundays we open"),
        ("Are you not open on Sunday?", "On Sundays we open"),
        ("Well, isn't there parking?", "car park"),
        ("I do not have cash, can I pay by card?", "by card"),
    ],
)
def test_a_negated_question_asks_the_same_and_a_negated_statement_does_not(
    content: Content, text: str, said: str
) -> None:
    """English turns the verb round; what is denied in another clause denies nothing here."""
    assert said in FolderAnswers(content).find(text).answer


@pytest.mark.parametrize(
    "text",
    """
    Tomorrow|tonight|later|tomorrow please|soon|you|I have to go to the toilet|I have to go by bus|a nice day
    tomorrow, thanks|thank you|thanks so much|no thanks|you too|great|thanks, that's all|No, that's all, thank you
    thanks, I want to book a table
    on a nice day|see you at eight with four people|I want a table for two tomorrow, see you then
    """.strip()
    .replace("\n", "|")
    .split("|"),
)
def test_a_farewell_is_one_only_if_it_is_all_that_is_said(content: Content, text: str) -> None:
    """With `goodbye.intent` the call would end in the middle of a booking."""
    assert FolderAnswers(content).intents.match(text.strip()).intent != "goodbye"


@pytest.mark.parametrize(
    "text",
    """
    see you tomorrow|Okay, see you tomorrow then.|bye|Bye-bye!|Good bye|I have to go|I have to go now|I have to go, bye
    Thanks, goodbye.|thank you, bye|Thank you very much, goodbye!|No, that's all, thanks, bye|No, that's all. Goodbye.
    thanks, have a nice day|thank you, have a nice day|thanks, bye bye|thanks so much, goodbye|that's all, bye
    I have to go now, thank you|have a nice weekend|have a great day|Great, thanks, bye|Thanks for your help, goodbye
    You too, bye|No, thank you, bye|Great, bye|have a good day
    Goodbye, have a nice day|bye, see you tomorrow|have a nice evening|All right, bye|good night
    """.strip()
    .replace("\n", "|")
    .split("|"),
)
def test_a_farewell_is_understood(content: Content, text: str) -> None:
    """Alone, or with thanks."""
    assert FolderAnswers(content).intents.match(text.strip()).intent == "goodbye"


@pytest.mark.parametrize(
    "text",
    [
        "what is the weather tomorrow",
        "do you have a piano",
        "tell me a joke",
        "who won the game",
        "xyzzy",
        "",
        '"; DROP TABLE sections; --',
        "NEAR(a b)",
    ],
)
def test_what_nobody_wrote_down_is_not_known(content: Content, text: str) -> None:
    """One word in common is not an answer, and no text is a query language."""
    found = FolderAnswers(content).find(text)
    assert (found.answer, found.sources) == (DONT_KNOW, ())


def test_an_answer_names_the_file_and_heading_it_comes_from(content: Content) -> None:
    """So that a wrong answer can be put right."""
    assert FolderAnswers(content).find("when are you open").sources == ("visiting.md#When are you open?",)


def test_every_example_means_its_own_intent_and_every_question_its_own_section(content: Content) -> None:
    """The content does not contradict itself."""
    answers = FolderAnswers(content)
    for intent in content.intents:
        assert {answers.intents.match(example).intent for example in intent.examples} == {intent.name}
    for section in content.sections:
        for question in (section.heading, *section.asked_as):
            assert answers.find(question).answer == section.spoken


def test_the_first_paragraph_is_spoken_and_no_markup_with_it() -> None:
    """Lists, tables of code and later paragraphs are searched, not said."""
    markdown = """
text before any heading

# What is **this**?

- Another way to ask?
- not a question

It is a [link](http://x), `code`,
and _very_ **bold** snake_case.

## Nothing to say

```
# not a heading
```
"""
    before, section = parse_sections(markdown, "a.md")
    assert (before.heading, before.spoken) == ("", "text before any heading")
    assert section.heading == "What is this?"
    assert section.spoken == "It is a link, code, and very bold snake_case."
    assert section.asked_as == ("Another way to ask?",)
    assert "not a question" in section.rest


@pytest.mark.parametrize(
    ("markdown", "spoken", "asked_as"),
    [
        (
            "We are open from 8 to\n18. On Sundays we open at 10.",
            "We are open from 8 to 18. On Sundays we open at 10.",
            (),
        ),
        ("We have\n3) seats.\n\n18. Is this an item?", "We have 3) seats.", ("Is this an item?",)),
        ("We open at ten.\n1. When do you\nopen?\n2. Or close?", "We open at ten.", ("When do you open?", "Or close?")),
        (
            "- Do you have a table for two\n  or for four?\n\nYes, we do.",
            "Yes, we do.",
            ("Do you have a table for two or for four?",),
        ),
        ("+ Is it\n   18. May?\n1) Or\n\tJune?\n\nIt is.", "It is.", ("Is it 18. May?", "Or June?")),
        ("1. One?\n   1. Two?\n   2. Three?\n2. Four?\n\nFive.", "Five.", ("One?", "Two?", "Three?", "Four?")),
        ("Yes.\n```\n- no item?\n```\n* An item?", "Yes.", ("An item?",)),
        (f"Call\n{'1' * 5_000}. now.", f"Call {'1' * 5_000}. now.", ()),
    ],
)
def test_a_list_begins_and_ends_where_markdown_says(markdown: str, spoken: str, asked_as: tuple[str, ...]) -> None:
    """Within a paragraph only - * + and the number 1 begin one; the next lines of an item belong to it."""
    (section,) = parse_sections(markdown, "a.md")
    assert (section.spoken, section.asked_as) == (spoken, asked_as)


def test_addresses_and_tags_are_not_read_aloud() -> None:
    """What a screen shows is not what a voice says."""
    assert speakable("See <b>us</b> ![x](y.png) <https://x.y> &nbsp; 5 \\* 3 > _2_") == "See us &nbsp; 5 * 3 > 2"


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("intents: {a: {examples: [no]}}", "quotes around"),
        ("intents: {a: {examples: []}}", "at least one example"),
        ("intents: {a: [x]}", "expected `examples:`"),
        ("intents: {a: {examples: [x], whole: maybe}}", "`whole` must be true or false"),
        ("intents: {a: {examples: [x], heeds_not: maybe}}", "`heeds_not` must be true or false"),
        ("- a", "expected `intents:`"),
        ("a: [", "not YAML"),
    ],
)
def test_content_that_is_wrong_is_named_with_its_file(tmp_path: Path, yaml: str, problem: str) -> None:
    """YAML's bare `no` is the trap that everybody meets once."""
    (tmp_path / "intents.yaml").write_text(yaml)
    with pytest.raises(ServiceError, match=problem) as caught:
        load_content(tmp_path)
    assert "intents.yaml" in str(caught.value)


def test_a_missing_folder_is_a_service_error(tmp_path: Path) -> None:
    """Not a traceback from the depths of a library."""
    with pytest.raises(ServiceError, match="cannot be read"):
        load_content(tmp_path / "nowhere")
