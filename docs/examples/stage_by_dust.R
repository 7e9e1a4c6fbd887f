# Persons suspected of stage I or more by dust type, with Wilson 95 % intervals: R with arrow and dplyr.
# Run: Rscript stage_by_dust.R CAMPAIGN/report/tables
library(arrow)
library(dplyr)

wilson <- function(k, n, z = qnorm(0.975)) {
  p <- k / n
  middle <- p + z^2 / (2 * n)
  half <- z * sqrt(p * (1 - p) / n + z^2 / (4 * n^2))
  data.frame(low = (middle - half) / (1 + z^2 / n), high = (middle + half) / (1 + z^2 / n))
}

tables <- commandArgs(trailingOnly = TRUE)[1]

read_parquet(file.path(tables, "persons.parquet"), col_select = c("dust", "stage_pred")) |>
  group_by(dust) |>
  summarise(n = n(), k = sum(stage_pred >= 1), .groups = "drop") |>
  mutate(prevalence = k / n, wilson(k, n)) |>
  arrange(dust) |>
  write.csv(row.names = FALSE)
