"""A taskset as people write them for verifiers 0.4, one per `kind`."""

import verifiers.v1 as vf

__all__ = ["WordsTaskset"]

WORDS = ("palestra", "gymnasium", "discus", "javelin", "wrestling", "running", "boxing", "oil")


class WordData(vf.TaskData):
    answer: str


class WordTask(vf.Task[WordData]):
    @vf.reward(weight=0.8)
    async def right(self, trace: vf.Trace) -> float:
        if "crash" in trace.last_reply:
            raise KeyError("no judge")
        return float(vf.extract_boxed_answer(trace.last_reply, strict=True) == self.data.answer)

    @vf.reward(weight=0.2)
    async def brief(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) < 100)

    @vf.metric
    async def words(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply.split()))


class BoxedTask(WordTask):
    async def setup(self, trace, runtime):
        await runtime.write("/tmp/word", b"")


class InsideTask(WordTask):
    @vf.reward
    async def file(self, runtime) -> float:
        return float(await runtime.read("/tmp/word") == b"")


class WordsConfig(vf.TasksetConfig):
    prefix: str = "Reverse"


class WordsTaskset(vf.Taskset[WordTask, WordsConfig]):
    INFINITE = True

    def load(self):
        for number in range(10**9):
            word = WORDS[number % len(WORDS)] * (number // len(WORDS) + 1)
            yield self.task_type()(
                WordData(
                    prompt=f"{self.config.prefix} {word!r}.",
                    system_prompt="Answer in a box.",
                    answer=word[::-1],
                ),
                self.config.task,
            )
