// What checks the alerts and the dashboard. Nothing is compiled into Signet.
module signet.dev/tests/tools/promtool

go 1.26.0

require github.com/prometheus/prometheus v0.315.0
