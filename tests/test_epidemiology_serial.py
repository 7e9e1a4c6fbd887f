from datetime import date

import polars as pl

from screener.epidemiology.serial import progression


def films(*rows: tuple[str, str | None, date | None, int, int | None]) -> pl.DataFrame:
    """(study, subject, date, stage now, stage by the roster)."""
    return pl.DataFrame(
        [
            (
                study,
                subject,
                day,
                day.year if day else None,
                stage,
                prior,
                2015 if prior is not None else None,
            )
            for study, subject, day, stage, prior in rows
        ],
        schema={
            "study_pid": pl.String,
            "subject_pid": pl.String,
            "study_date": pl.Date,
            "study_year": pl.Int16,
            "stage_pred": pl.Int8,
            "prior_stage": pl.Int8,
            "prior_year": pl.Int32,
        },
        orient="row",
    )


def test_the_latest_film_is_compared_with_the_one_before_it() -> None:
    found = progression(
        films(
            ("1", "a", date(2020, 1, 1), 0, None),
            ("2", "a", date(2021, 1, 1), 1, None),
            ("3", "a", date(2023, 1, 1), 2, None),
            ("4", "b", date(2022, 1, 1), 1, None),
        ),
        min_cell=0,
        confidence=0.95,
    )
    row = found.table.row(0, named=True)
    assert found.table.height == 1
    assert (row["source"], row["stage_before"], row["stage_now"], row["num_persons"]) == ("campaign", 1, 2, 1)
    assert round(row["median_years"], 1) == 2.0
    assert (found.num_progressed, found.num_unchanged, found.num_lower) == (1, 0, 0)
    assert found.pairs["study_pid"].to_list() == ["3"]


def test_the_roster_stands_in_where_there_is_no_earlier_film() -> None:
    found = progression(
        films(
            ("1", "a", date(2020, 1, 1), 2, 1),
            ("2", "b", date(2019, 1, 1), 1, 0),
            ("3", "b", date(2020, 1, 1), 1, 0),
        ),
        min_cell=0,
        confidence=0.95,
    )
    rows = {(row["source"], row["stage_before"], row["stage_now"]) for row in found.table.to_dicts()}
    assert rows == {("roster", 1, 2), ("campaign", 1, 1)}


def test_films_that_no_date_orders_are_counted_not_guessed() -> None:
    same_day = films(("1", "a", date(2020, 1, 1), 0, None), ("2", "a", date(2020, 1, 1), 1, None))
    undated = films(("3", "b", None, 0, None), ("4", "b", date(2020, 1, 1), 1, None))
    found = progression(pl.concat([same_day, undated]), min_cell=0, confidence=0.95)
    assert found.table.is_empty()
    assert found.num_unordered == 3


def test_studies_without_a_subject_have_no_past() -> None:
    found = progression(
        films(("1", None, date(2020, 1, 1), 0, None), ("2", None, date(2021, 1, 1), 1, None)),
        min_cell=0,
        confidence=0.95,
    )
    assert found.pairs.is_empty()
    assert found.progressed_low is None


def changes(before: int, now: int, count: int, start: int) -> list[tuple[str, str, date, int, None]]:
    rows: list[tuple[str, str, date, int, None]] = []
    for number in range(start, start + count):
        rows.append((f"{number}-1", f"p{number}", date(2020, 1, 1), before, None))
        rows.append((f"{number}-2", f"p{number}", date(2021, 1, 1), now, None))
    return rows


def test_small_changes_are_hidden_and_cannot_be_subtracted() -> None:
    rows = [*changes(0, 0, 40, 0), *changes(0, 1, 9, 100), *changes(1, 2, 2, 200), *changes(1, 0, 8, 300)]
    found = progression(films(*rows), min_cell=5, confidence=0.95)
    assert (found.num_progressed, found.num_unchanged, found.num_lower) == (11, 40, 8)
    hidden = {(row["stage_before"], row["stage_now"]) for row in found.table.filter("suppressed").to_dicts()}
    assert hidden == {(0, 1), (1, 2)}, "one hidden cell of eleven would be read off the other"
    assert found.table.filter("suppressed")["num_persons"].null_count() == 2


def test_a_direction_with_few_persons_is_hidden_as_a_whole() -> None:
    rows = [*changes(0, 0, 40, 0), *changes(0, 1, 3, 100), *changes(1, 0, 8, 300)]
    found = progression(films(*rows), min_cell=5, confidence=0.95)
    assert found.num_progressed is None
    assert [found.num_unchanged, found.num_lower].count(None) == 1, "the total is known: two are hidden"
    assert found.progressed_high is None
