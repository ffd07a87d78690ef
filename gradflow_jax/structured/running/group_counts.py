"""Into how many groups the channels that a cut leaves are divided."""


def group_count(
    path: str, groups: int, before: int, after: int, hint: int | None
) -> int:
    """Returns into how many groups the channels that a cut leaves are divided.

    Args:
        path: the module's.
        groups: their number before the cut.
        before: the number of channels before the cut.
        after: the number that is left.
        hint: the number of groups after the cut, if the caller knows.

    Raises:
        ValueError: if the hint does not divide the channels, or without one if whole
            groups may have gone as well as channels of each, or neither.

    Example:
        >>> group_count("norm", groups=4, before=12, after=9, hint=None)
        3
        >>> group_count("norm", groups=4, before=12, after=8, hint=None)
        4
    """
    if hint is not None:
        if hint < 1 or after % hint:
            raise ValueError(
                f"groups[{path!r}] is {hint}, which does not divide the {after} "
                "channels that are left."
            )
        return hint
    if groups == 1 or after == before:
        return groups
    size = before // groups
    # Either whole groups went, or as many channels of each group.
    possible = {after // size} if after % size == 0 else set()
    possible |= {groups} if after % groups == 0 else set()
    if len(possible) == 1:
        return possible.pop()
    counts = " or ".join(map(str, sorted(possible))) or "no number of"
    raise ValueError(
        f"{path!r} had {before} channels in {groups} groups and has {after} left: they "
        f"can be {counts} groups. Say which by groups={{{path!r}: number}}."
    )
