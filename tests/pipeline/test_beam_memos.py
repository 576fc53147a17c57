"""What is remembered of Beam's DoFns is what Beam finds: states, timers, and none where there are none."""

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.transforms import userstate
from apache_beam.transforms.timeutil import TimeDomain

from pipeline import beam_memos  # noqa: F401  (for its effect)

SUM = userstate.CombiningValueStateSpec("sum", VarIntCoder(), sum)
END = userstate.TimerSpec("end", TimeDomain.WATERMARK)
STATE, TIMER = beam.DoFn.StateParam(SUM), beam.DoFn.TimerParam(END)


class Stateful(beam.DoFn):
    def process(self, element, state=STATE):
        yield element


class Timed(beam.DoFn):
    def process(self, element, state=STATE, timer=TIMER):
        yield element

    @userstate.on_timer(END)
    def end(self):
        yield None


class Plain(beam.DoFn):
    def process(self, element):
        yield element


def test_states_and_timers_are_found_each_time():
    for _ in range(2):
        assert userstate.get_dofn_specs(Stateful()) == ({SUM}, set())
        assert userstate.get_dofn_specs(Timed()) == ({SUM}, {END})
        assert userstate.get_dofn_specs(Plain()) == (set(), set())
        assert userstate.get_dofn_specs(beam.Map(len).dofn) == (set(), set())


def test_a_method_that_one_dofn_was_given_is_its_own():
    for given, found in ((Plain(), set()), (Stateful(), {SUM}), (Plain(), set())):
        assert userstate.get_dofn_specs(beam.FlatMap(given.process).dofn) == (found, set())


def test_what_is_given_out_can_be_changed():
    states, _ = userstate.get_dofn_specs(Stateful())
    states.clear()
    assert userstate.get_dofn_specs(Stateful()) == ({SUM}, set())
