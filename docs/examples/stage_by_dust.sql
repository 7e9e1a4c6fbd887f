-- How many persons are suspected of stage I or more, by dust type, with Wilson 95 % intervals?
-- Run beside the report's tables:  cd CAMPAIGN/report/tables && duckdb < stage_by_dust.sql
with persons as (
    select dust, count(*) as n, count(*) filter (stage_pred >= 1) as k
    from 'persons.parquet'
    group by dust
),
share as (
    select *, k / n as p, 1.959963984540054 as z from persons
)
select
    dust,
    n,
    k,
    p as prevalence,
    (p + z * z / (2 * n) - z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n) as low,
    (p + z * z / (2 * n) + z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n) as high
from share
order by dust;
