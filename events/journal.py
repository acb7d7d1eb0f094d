"""The facts of an agent's work on a question: its tool calls with their results, and the responses of its model.

None of them may happen twice: a question that is asked again gets them from the log. Docstrings as in inputs.py.
"""

from typing import Annotated, Literal

from pydantic import StringConstraints

from events.envelope import ADDED, Count, Id, Note, Result, ServiceResult, Text

Response = Annotated[str, StringConstraints(max_length=32_000)]


class ToolCalled(ServiceResult):
    """The agent wants to call a tool; the call runs after the commit of this fact.

    Says: the answer function, by `request.once`. Changes: the call runs; the answer's deadline waits for it, and the
    agent may say that it takes a while. Prints: nothing; with tools `Tool NAME(arguments)`, and `as before` where it
    gets the result of an earlier call.
    Late or twice: stale, and nothing runs. The call of a speculation, or a call beyond the limit, is rejected with a
    reason, which the agent gets. Test: test_a_tool_runs_after_its_call_is_committed.
    """

    answers = frozenset({"AnswerQuestion"})
    is_last = False
    ends_stage = False

    arguments: Text
    """A JSON object: names of parameters and their values."""
    call_id: Id
    is_cancellable: Annotated[bool, ADDED] = False
    """Whether the call ends with its turn. Otherwise it runs to its end, also if the user interrupts."""
    name: Id
    same_as: Annotated[Id, ADDED] = ""
    """Id of the same call of an earlier question, whose result this call gets: the tool does not run again. Empty: the
    tool runs."""
    type: Literal["TOOL_CALLED"] = "TOOL_CALLED"


class ToolReturned(Result):
    """A tool call is over: with a result, or with an error message.

    Says: the RunTool effect. Changes: the call is no longer open; the deadline of its answer runs again. The result
    counts in any turn, and the next question gets it with the conversation. Prints: nothing; with tools
    `Tool NAME → result` or `Tool NAME ✗ error`. Late or twice: stale. Test: test_a_result_counts_after_an_interruption.
    """

    answers = frozenset({"RunTool"})
    about = "call_id"
    told_by = "Services"
    lane = "THINK"
    is_last = True
    ends_stage = True

    call_id: Id
    error: Note = ""
    """Why there is no result; empty: there is one."""
    result: Text = ""
    """JSON."""
    type: Literal["TOOL_RETURNED"] = "TOOL_RETURNED"


class ModelResponded(ServiceResult):
    """The agent's model has given a response. If the question is asked again, the agent gets the response from the log.

    Says: the answer function, by `request.ask_model`. Changes: nothing in the conversation; the state notes where the
    journal of the question begins. Prints: nothing; with tools `Model NAME (in→out tokens)`. Late or twice: stale.
    Test: test_a_response_of_the_model_changes_nothing.
    """

    answers = frozenset({"AnswerQuestion"})
    is_last = False
    ends_stage = False

    call_id: Id
    input_tokens: Annotated[Count, ADDED] = 0
    model: Note = ""
    output_tokens: Annotated[Count, ADDED] = 0
    request: Annotated[Id, ADDED] = ""
    """A digest of the request: a rerun reuses the response only for the same request. Empty: not known."""
    response: Response
    """JSON."""
    took_us: Annotated[Count, ADDED] = 0
    """How long the model took for this response; `elapsed_us` counts from the question."""
    type: Literal["MODEL_RESPONDED"] = "MODEL_RESPONDED"
