"""Grafana's dashboards, as code: `python manifests/monitoring/dashboards.py` writes base/dashboards/*.json.

Built with Grafana's own typed library, so a field that Grafana does not know cannot be written. Queries use the
recording rules wherever there is one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

TARGET = Path(__file__).parent / "base" / "dashboards"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HERE = '{namespace=~"$namespace", model=~"$model"}'


@dataclass(frozen=True)
class Plot:
    """One panel: a title, (query, legend) pairs, and how to show them."""

    title: str
    words: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    limit: float | None = None
    """Where an alert's threshold is, drawn in red above."""
    single: bool = False
    """The last value as a number, instead of its course."""
    width: int = 12

    def panel(self) -> Timeseries | Stat:
        """The same for Grafana."""
        panel: Timeseries | Stat = Stat() if self.single else Timeseries()
        panel.title(self.title).description(self.words).datasource(_SOURCE).unit(self.unit).span(self.width)
        panel.height(4 if self.single else 8)
        steps = [Threshold(value=None, color="green")]
        if self.limit is not None:
            steps.append(Threshold(value=self.limit, color="red"))
        panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        for number, (query, legend) in enumerate(self.queries):
            target = Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number))
            panel.with_target(target.instant() if self.single else target.range())
        if isinstance(panel, Stat):
            panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        else:
            panel.legend(
                VizLegendOptions()
                .show_legend(True)
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
            )
            panel.fill_opacity(5)
        return panel


def service() -> Dashboard:
    """Who is served, how well, and from what."""
    board = _board("troika-service", "Troika / Service", "Availability, latency, load and releases")
    return _rows(
        board,
        {
            "Now": [
                Plot(
                    "Errors, 5 min", "Seen by clients; the budget is 0.1 %",
                    [(f"max(troika:client_errors:ratio_rate5m{_HERE})", "")], "percentunit", 0.0144, True, 6,
                ),
                Plot(
                    "Slow answers, 5 min", "Longer than 0.25 s; the budget is 1 %",
                    [(f"max(troika:client_slow:ratio_rate5m{_HERE})", "")], "percentunit", 0.144, True, 6,
                ),
                Plot(
                    "Requests a second", "Taken by Triton", [(f"sum(troika:requests:rate5m{_HERE})", "")],
                    "reqps", None, True, 6,
                ),
                Plot(
                    "Replicas", "That the probe finds", [(f"sum(troika_probe_replicas{_HERE})", "")],
                    "short", None, True, 6,
                ),
            ],
            "Error budget": [
                Plot(
                    "Availability: burn rate", "1 uses up the budget of 30 days in 30 days; 14.4 pages somebody",
                    [
                        (f"troika:client_errors:ratio_rate{window}{_HERE} / 0.001", f"{{{{model}}}} {window}")
                        for window in ("5m", "1h", "6h", "3d")
                    ],
                    "short", 14.4,
                ),
                Plot(
                    "Latency: burn rate", "The same for answers that take longer than 0.25 s",
                    [
                        (f"troika:client_slow:ratio_rate{window}{_HERE} / 0.01", f"{{{{model}}}} {window}")
                        for window in ("5m", "1h", "6h", "3d")
                    ],
                    "short", 14.4,
                ),
            ],
            "Clients": [
                Plot(
                    "Requests by outcome", "Repetitions count",
                    [(
                        f"sum by (model, outcome) (rate(troika_client_requests_total{_HERE}[$__rate_interval]))",
                        "{{model}} {{outcome}}",
                    )], "reqps",
                ),
                Plot(
                    "Time to an answer", "Of answers that came, estimated from buckets",
                    [
                        (
                            f"histogram_quantile({share}, sum by (le, model) (rate("
                            'troika_client_request_seconds_bucket{namespace=~"$namespace", model=~"$model", '
                            'outcome="ok"}[$__rate_interval])))',
                            f"{{{{model}}}} {words}",
                        )
                        for share, words in ((0.5, "half"), (0.99, "99 %"))
                    ],
                    "s", 0.25,
                ),
            ],
            "Triton": [
                Plot(
                    "Time in Triton per request", "Sum by sum over all pods, never a mean of means",
                    [
                        (f"troika:request_seconds:mean5m{_HERE}", "{{model}} in all"),
                        (f"troika:queue_seconds:mean5m{_HERE}", "{{model}} waiting"),
                    ], "s", 0.1,
                ),
                Plot(
                    "Images per run of the model", "How well requests are put together",
                    [(f"troika:batch_images:mean5m{_HERE}", "{{model}}")],
                ),
                Plot(
                    "Waiting now", "Requests in queues",
                    [(f"sum by (model) (nv_inference_pending_request_count{_HERE})", "{{model}}")],
                ),
                Plot(
                    "Failures that Triton counts", "It misses most of what a full queue turns away",
                    [(
                        f"sum by (model, reason) (rate(nv_inference_request_failure{_HERE}[$__rate_interval]))",
                        "{{model}} {{reason}}",
                    )], "reqps",
                ),
            ],
            "Releases": [
                Plot(
                    "What should be served, and what is", "By Git, and by what replicas say of themselves",
                    [
                        (f"max by (digest) (troika_probe_release_info{_HERE})", "Git {{digest}}"),
                        (f"count by (digest) (troika_probe_served_info{_HERE})", "replicas {{digest}}"),
                    ],
                ),
                Plot(
                    "Store and pointer", "Store: 1 answers. Pointer: minutes since it was read",
                    [
                        ('troika_probe_store_up{namespace=~"$namespace"}', "{{store}}"),
                        (
                            '(time() - troika_probe_release_read_timestamp_seconds{namespace=~"$namespace"}) / 60',
                            "{{source}}",
                        ),
                    ],
                ),
            ],
            "GPUs": [
                Plot("Use", "By dcgm-exporter", [("DCGM_FI_DEV_GPU_UTIL", "{{Hostname}} {{gpu}}")], "percent"),
                Plot(
                    "Memory", "Share in use",
                    [(
                        "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)", "{{Hostname}} {{gpu}}"
                    )], "percentunit", 0.95,
                ),
            ],
        },
    )  # fmt: skip


def model_quality() -> Dashboard:
    """Is what is served still what was promised?"""
    board = _board("troika-quality", "Troika / Model quality", "The gate's own figures, of what is served now")

    def figure(name: str, words: str) -> Plot:
        chosen = f'{{namespace=~"$namespace", model=~"$model", figure="{name}"}}'
        bound = chosen.replace("}", ', bound="%s"}')
        return Plot(
            name.replace("_", " ").capitalize(), words,
            [
                (f"troika_probe_quality{chosen}", "{{model}} {{digest}}"),
                (f"troika_probe_quality_expected{bound % 'low'}", "expected from"),
                (f"troika_probe_quality_expected{bound % 'high'}", "expected to"),
                (f"troika_probe_quality_limit{chosen}", "gate: {{bound}}"),
            ],
        )  # fmt: skip

    return _rows(
        board,
        {
            "Figures": [
                figure("frechet_distance", "To held-out images, on the evaluator's features; small is good"),
                figure("label_agreement", "Share of images in which the evaluator sees the class asked for"),
                figure("class_balance", "Distance of the classes seen from those of held-out images"),
                figure("constant_images", "Share of images whose pixels are all alike"),
            ],
            "Answers": [
                Plot(
                    "Golden images", "Largest difference from those of the bundle, of 255 levels",
                    [(f"troika_probe_golden_difference_levels{_HERE}", "{{replica}}")], "short", 1,
                ),
                Plot(
                    "Replicas against each other", "Largest difference for the same fresh seed, of 255 levels",
                    [(f"troika_probe_replica_disagreement_levels{_HERE}", "{{digest}}")], "short", 1,
                ),
                Plot(
                    "Golden checks", "By result, a minute",
                    [(
                        f"60 * sum by (result) (rate(troika_probe_golden_checks_total{_HERE}[$__rate_interval]))",
                        "{{result}}",
                    )],
                ),
                Plot(
                    "Replicas that answer", "1 does", [(f"troika_probe_replica_answers{_HERE}", "{{replica}}")]
                ),
            ],
            "The probe itself": [
                Plot(
                    "Rounds a minute", "By result",
                    [(
                        "60 * sum by (result) (rate("
                        'troika_probe_rounds_total{namespace=~"$namespace"}[$__rate_interval]))',
                        "{{result}}",
                    )],
                ),
                Plot(
                    "Age of what is known", "Since the last window of images, and since the last round",
                    [
                        (f"time() - troika_probe_quality_timestamp_seconds{_HERE}", "window {{digest}}"),
                        ('time() - troika_probe_last_round_timestamp_seconds{namespace=~"$namespace"}', "round"),
                    ], "s",
                ),
                Plot(
                    "Windows an hour", "Fresh images by the size of a window; 0 where quality is not watched",
                    [(
                        f"3600 * sum by (namespace, model) (rate(troika_probe_quality_images_total{_HERE}[1h]))"
                        f" / on (namespace, model) troika_probe_quality_window_images{_HERE}"
                        f" or troika_probe_quality_watched{_HERE} == 0",
                        "{{model}}",
                    )],
                ),
            ],
        },
    )  # fmt: skip


def pipeline() -> Dashboard:
    """From training to a released model."""
    board = _board("troika-pipeline", "Troika / Pipeline", "Runs of the pipeline and what comes of them")
    return _rows(
        board,
        {
            "Runs": [
                Plot(
                    "Runs now", "By phase, as Argo Workflows counts them",
                    [("sum by (phase) (argo_workflows_gauge)", "{{phase}}")],
                ),
                Plot(
                    "Ended within an hour", "By phase",
                    [(
                        "sum by (phase) (increase("
                        'argo_workflows_total_count{phase=~"Succeeded|Failed|Error"}[1h]))',
                        "{{phase}}",
                    )],
                ),
                Plot(
                    "Kubeflow's own count", "Runs that it has recorded",
                    [
                        ("sum(resource_manager_workflow_runs_success)", "succeeded"),
                        ("sum(resource_manager_workflow_runs_failed)", "failed"),
                    ],
                ),
                Plot(
                    "Room for unfinished training", "Share of each volume that is left",
                    [(
                        "kubelet_volume_stats_available_bytes / kubelet_volume_stats_capacity_bytes",
                        "{{namespace}} {{persistentvolumeclaim}}",
                    )], "percentunit",
                ),
            ],
            "Releases": [
                Plot(
                    "Released", "Each environment's model and version, by Git",
                    [(
                        "max by (environment, model, version) ("
                        'troika_probe_release_info{namespace=~"$namespace"})',
                        "{{environment}}: {{model}} {{version}}",
                    )],
                ),
                Plot(
                    "Roll-outs", "By phase, as Argo Rollouts says",
                    [("sum by (namespace, name, phase) (rollout_info)", "{{namespace}} {{name}} {{phase}}")],
                ),
                Plot(
                    "Argo CD", "Applications by state",
                    [(
                        'count by (name, sync_status) (argocd_app_info{name=~"troika.*"})',
                        "{{name}} {{sync_status}}",
                    )],
                ),
            ],
        },
    )  # fmt: skip


DASHBOARDS: dict[str, Callable[[], Dashboard]] = {
    "service.json": service,
    "model-quality.json": model_quality,
    "pipeline.json": pipeline,
}


def encode(board: Dashboard) -> str:
    """As Grafana reads it."""
    text: str = JSONEncoder(sort_keys=True, indent=1).encode(board.build())
    return text + "\n"


def _board(uid: str, title: str, words: str) -> Dashboard:
    return (
        Dashboard(title)
        .uid(uid)
        .description(words)
        .tags(["troika"])
        .readonly()
        .refresh("1m")
        .time("now-6h", "now")
        .timezone("browser")
        .with_variable(DatasourceVariable("datasource").label("Source").type("prometheus"))
        .with_variable(_variable("namespace", "label_values(troika_probe_release_info, namespace)"))
        .with_variable(
            _variable("model", 'label_values(troika_probe_release_info{namespace=~"$namespace"}, model)')
        )
    )


def _variable(name: str, query: str) -> QueryVariable:
    # Outside a cluster series have no namespace, which `.*` finds, too.
    return (
        QueryVariable(name)
        .label(name.capitalize())
        .datasource(_SOURCE)
        .query(query)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def _rows(board: Dashboard, rows: dict[str, list[Plot]]) -> Dashboard:
    for title, plots in rows.items():
        board.with_row(Row(title))
        for plot in plots:
            board.with_panel(plot.panel())
    return board


def main() -> None:
    """Write all of them."""
    TARGET.mkdir(exist_ok=True)
    for name, make in DASHBOARDS.items():
        (TARGET / name).write_text(encode(make()), encoding="utf-8")


if __name__ == "__main__":
    main()
