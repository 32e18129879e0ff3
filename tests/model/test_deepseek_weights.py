#!/usr/bin/env python3
"""The tiny checkpoint in the form of DeepSeek's releases gives the bits of the same values in bf16.

FP8 linear layers with a scale for 128 x 128 values, FP4 experts with one for 32, DeepSeek's names
and config.json, prediction heads that are skipped. Experts are 96 wide: the last tile of their rows
or columns is no whole one. Written by tests/oracle/tiny_deepseek.py, which decodes by itself.
"""
import itertools
import json
import shutil

from scoring import ScoreTest, golden_ids, main, options
import tiny_deepseek
import tiny_gguf

IDS = golden_ids("p700")  # 175 compressed rows in the layers that select 64
BEYOND_WINDOW = 160


class DeepSeek(ScoreTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.checkpoint = tiny_gguf.load(options.model)
        cls.nats = cls().score(options.model, IDS)[1]

    def write(self, form):
        for folder, config, tensors in (("stored", form.config, form.packed), ("decoded", form.twin_config, form.twin)):
            shutil.rmtree(self.path(folder), ignore_errors=True)
            tiny_deepseek.write(self.path(folder), config, tensors)

    def check(self, form, n_single):
        self.write(form)
        _, nats = self.check_stored(self.path("stored"), self.path("decoded"), IDS, n_single, "released")
        # It is still the tiny checkpoint: its own text is as likely, but for the coarser values.
        self.assertAlmostEqual(nats, self.nats, delta=0.02)

    def test_released(self):
        self.check(tiny_deepseek.released(self.checkpoint), len(IDS))
        want, _ = self.score(self.path("stored"), IDS)
        with open(self.path("stored/config.json"), "w", encoding="utf-8") as file:
            json.dump(tiny_deepseek.inference_config(self.checkpoint), file)
        got, _ = self.score(self.path("stored"), IDS)
        self.assert_same_logits(got, want, "under the keys of inference/config.json")

    def damaged(self, form, name, at, byte, *arguments):
        """What is said of the model with another byte in one tensor."""
        dtype, shape, data = form.packed[name]
        tensors = {**form.packed, name: (dtype, shape, data[:at] + bytes([byte]) + data[at + 1:])}
        shutil.rmtree(self.path("stored"), ignore_errors=True)
        tiny_deepseek.write(self.path("stored"), form.config, tensors)
        return self.refusal(self.path("stored"), IDS[:40], *arguments)

    def test_nan_codes_are_noticed_wherever_they_are(self):
        form = tiny_deepseek.released(self.checkpoint)
        codes = [name for name, (dtype, _, _) in form.packed.items()
                 if dtype == "F8_E4M3" and name.startswith(("layers.4.", "layers.5."))]
        scales = [f"layers.{name}.scale" for name in ("0.attn.wq_a", "4.attn.indexer.wq_b", "5.attn.wq_b",
                                                      "5.attn.wo_a")]
        nans = itertools.cycle((0x7F, 0xFF))  # of E8M0 the latter alone
        ways = itertools.cycle(((), ("--chunk", "1"), ("--grid", "off")))
        for name, byte, way in [*zip(codes, nans, ways), *((name, 0xFF, next(ways)) for name in scales)]:
            with self.subTest(name=name, way=way):
                place = 7 % len(form.packed[name][2])
                self.assertRegex(self.damaged(form, name, place, byte, *way), "NaN or infinite")

    def test_base_with_f32_scales_and_fp8_experts(self):
        self.check(tiny_deepseek.released(self.checkpoint, scales="F32", experts="fp8"), BEYOND_WINDOW)


if __name__ == "__main__":
    main()
