"""Options of classes, also of those that derive from a builtin type without a signature."""

from collections import OrderedDict

from rekd_det.utils.options import options_of


class _Base:
    def __init__(self, width, *args, depth=1, **kwargs):
        pass


class _Derived(_Base, OrderedDict):
    def __init__(self, height, *rest, **options):
        pass


def test_options_are_those_of_all_bases_without_collectors():
    assert options_of(_Derived) == {"height", "width", "depth"}
