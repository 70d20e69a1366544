"""The page itself: controls on the left, images on the right. Gradio is imported here alone."""

import html
import importlib.util
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from lightningdit_jax.data.class_names import short_names
from lightningdit_jax.flow.guidance_rules import SCHEDULES
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.inference.page.drawing import Drawer, Refused
from lightningdit_jax.inference.page.settings import unread
from lightningdit_jax.inference.sampling.sampler import Structure
from lightningdit_jax.sampling_options import OF_GUIDANCE, SamplingOptions

HOST = "127.0.0.1"
_TITLE = "LightningDiT"
_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
_STYLE = """
.status { font-size: 1rem; padding: .3rem 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.status.refused { color: #b91c1c; font-weight: 600; }
.dark .status.refused { color: #fca5a5; }
input:disabled { opacity: .45; }
#pictures .grid-wrap { height: auto; max-height: none; overflow: visible; }
"""
_PIXELS = "#pictures img { image-rendering: pixelated; }"
_SMALL = 128  # pixels; images with fewer are enlarged by repeating them


def check_gradio() -> None:
    """Raises ValueError where there is nothing to make a page with."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("a page needs gradio: pip install -e '.[page]'")


def prepare_gradio(folder: epath.Path) -> None:
    """Has it report to nobody and keep its files in a folder; before it is imported."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_TEMP_DIR": str(folder / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def class_choices(num_classes: int, class_names: Sequence[str]) -> list[tuple[str, int]]:
    """What a class is called in the list of all, and its number."""
    names = short_names(class_names) or [""] * num_classes
    called = (str(n) if name in ("", str(n)) else f"{n} {name}" for n, name in enumerate(names))
    return list(zip(called, range(num_classes)))


def solver_choices(flow: Flow) -> list[str]:
    """Those that solve a generator's flow."""
    return [name for name, row in SOLVERS.items() if row.path in ("", flow.path)]


def open_page(
    drawer: Drawer,
    settings: Mapping[str, Any],
    structure: Structure,
    class_names: Sequence[str],
    widths: Sequence[float],
    resolution: int,
    port: int,
) -> Any:
    """Serves the page on this machine in threads of its own; returns what `close()` ends.

    settings: what the controls say at first. widths: of averages that can be drawn with.
    resolution: of the images.
    """
    import gradio as gr

    stops, controls = dict[str, threading.Event](), dict[str, Any]()
    infos, off = dict[str, str](), unread(settings)

    def control(kind: Any, name: str, label: str, info: str = "", **more: Any) -> None:
        """A control of a setting, which can be changed where the others leave it a meaning."""
        infos[name] = info
        controls[name] = kind(
            value=settings[name],
            label=label,
            info=off.get(name, info) or None,
            interactive=name not in off,
            min_width=80,
            elem_id=name,
            **more,
        )

    def number(name: str, label: str, step: float = 1, info: str = "", scale: int = 1) -> None:
        control(gr.Number, name, label, info, step=step, scale=scale)

    def draw_images(request: gr.Request, *values: Any) -> Iterator[tuple]:
        ended = stops[str(request.session_hash)] = threading.Event()
        running, over = gr.Button(interactive=True), gr.Button(interactive=False)
        try:
            for drawn in drawer.draw(dict(zip(controls, values, strict=True)), ended.is_set):
                done = bool(drawn.archive)
                download = gr.DownloadButton(value=drawn.archive or None, interactive=done)
                shown = list(drawn.pictures)
                yield _status(drawn.line), shown, download, over if done else running
        except Refused as refused:
            kept = gr.skip()
            yield _status(f"error: {refused}", "refused"), kept, kept, over

    def stop_drawing(request: gr.Request) -> None:
        if ended := stops.get(str(request.session_hash)):
            ended.set()

    def leave_meaning(*values: Any) -> list[Any]:
        """Updates of what may be unread, for the values of what decides it."""
        off = unread(dict(zip(deciding, values, strict=True)))
        return [
            type(controls[name])(info=off.get(name, infos[name]), interactive=name not in off)
            for name in decided
        ]

    can_guide = structure.weak is not None
    can_guide |= structure.config.num_labels > structure.config.num_classes
    is_changed = any(settings[name] != getattr(SamplingOptions, name) for name in OF_GUIDANCE)
    deciding, decided = ("solver", "cfg_schedule", "cfg_scale"), ("timestep_shift", *OF_GUIDANCE)
    with gr.Blocks(title=_TITLE, analytics_enabled=False) as page:
        with gr.Row():
            with gr.Column(scale=1, min_width=360):
                gr.Markdown(f"## {_TITLE}")
                controls["labels"] = gr.Dropdown(
                    class_choices(structure.config.num_classes, class_names),
                    value=settings["labels"],
                    multiselect=True,
                    label="Classes",
                    info="in turn; without any, drawn at random",
                    elem_id="labels",
                )
                with gr.Row():
                    number("seed", "Seed")
                    number("num_samples", "Images")
                with gr.Row():
                    solvers = solver_choices(structure.flow)
                    control(gr.Dropdown, "solver", "Solver", choices=solvers)
                    number("num_steps", "Grid points")
                with gr.Row(visible=can_guide):
                    number("cfg_scale", "Guidance", 0.1, "1 is none", scale=2)
                    number("cfg_interval_start", "from time", 0.05, "0 is noise")
                    number("cfg_interval_end", "to time", 0.05, "1 is data")
                with gr.Row(visible=structure.config.aux_head_depth > 0):
                    number("ig_scale", "Internal guidance", 0.1, "1 is none", scale=2)
                    number("ig_interval_start", "from time", 0.05, "0 is noise")
                    number("ig_interval_end", "to time", 0.05, "1 is data")
                with gr.Row():
                    number("cfg_channels", "Guided channels", 1, "0 is all")
                    number("timestep_shift", "Timestep shift", 0.05, "0 is none")
                with gr.Row(visible=len(widths) > 0):
                    most = f"; {min(widths)} to {max(widths)} can be made" if widths else ""
                    number("ema_sigma", "EMA width", 0.01, f"0 is the run's own average{most}")
                with gr.Accordion(
                    "Advanced guidance", open=is_changed, visible=can_guide, elem_id="advanced"
                ):
                    with gr.Row():
                        control(
                            gr.Dropdown,
                            "cfg_schedule",
                            "Strength over time",
                            choices=list(SCHEDULES),
                            scale=2,
                        )
                        number("cfg_power", "Power", 0.5)
                    with gr.Row():
                        control(gr.Checkbox, "cfg_optimized_scale", "CFG-Zero*: optimized scale")
                        number("cfg_zero_init_steps", "CFG-Zero*: zero steps", 1, "0 is none")
                    with gr.Row():
                        number("apg_eta", "APG: eta", 0.1, "1 keeps all")
                        number("apg_norm_threshold", "threshold", 0.5, "0 is any")
                        number("apg_momentum", "momentum", 0.1, "0 is none")
            with gr.Column(scale=2, min_width=480):
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", elem_id="draw")
                    stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop")
                status = gr.HTML(_status("nothing is drawn yet"))
                pictures = gr.Gallery(
                    show_label=False,
                    columns=4,
                    height="auto",
                    object_fit="contain",
                    buttons=["download", "fullscreen"],
                    interactive=False,
                    elem_id="pictures",
                )
                archive = gr.DownloadButton(
                    "Download images and settings", interactive=False, elem_id="archive"
                )
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        outputs = [status, pictures, archive, stop]
        draw.click(draw_images, list(controls.values()), outputs, concurrency_limit=1, **quiet)
        stop.click(stop_drawing, queue=False, **quiet)
        for name in deciding:
            controls[name].input(
                leave_meaning,
                [controls[name] for name in deciding],
                [controls[name] for name in decided],
                queue=False,
                **quiet,
            )
    page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        theme=gr.themes.Default(**_FONTS),
        css=_STYLE + (_PIXELS if resolution < _SMALL else ""),
    )
    return page


def _status(line: str, more: str = "") -> str:
    return f'<div class="status {more}" role="status">{html.escape(line)}</div>'
