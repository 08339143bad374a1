"""Costumes of the named characters: each unmistakable, each always the same."""

from __future__ import annotations

import math

from .objects import draw_face
from .people import Person

_PURPLE, _GOLD = (112, 36, 150), (255, 210, 50)


def _star(canvas, cx, cy, r, color):
    points = []
    for k in range(10):
        radius = r if k % 2 == 0 else 0.42 * r
        angle = math.pi / 2 + k * math.pi / 5
        points.append((cx + radius * math.cos(angle), cy + radius * math.sin(angle)))
    canvas.polygon(points, color)


def _legs(canvas, p: Person, color, shoe) -> None:
    for side in (-1, 1):
        canvas.ellipse(side * (p.stride + 0.035), 0.024, 0.066, 0.03, shoe)
        canvas.limb([(side * 0.06, 0.36), (side * (p.stride + 0.012), 0.07)], 0.11, color)
    canvas.rect(-0.12, 0.32, 0.12, 0.42, color, 0.03)


def _torso(canvas, color) -> None:
    canvas.polygon(
        [(-0.155, 0.63), (-0.1, 0.675), (0.1, 0.675), (0.155, 0.63), (0.135, 0.38), (-0.135, 0.38)], color
    )


def draw_costume_body(canvas, p: Person) -> None:
    """What a character wears below the neck; same units as a person."""
    if p.costume == "wizard":
        canvas.polygon([(-0.11, 0.675), (0.11, 0.675), (0.21, 0.015), (-0.21, 0.015)], _PURPLE)
        canvas.polygon([(-0.2, 0.05), (0.2, 0.05), (0.21, 0.01), (-0.21, 0.01)], _GOLD)
        for x, y in ((-0.07, 0.46), (0.07, 0.33), (-0.08, 0.2), (0.09, 0.14)):
            _star(canvas, x, y, 0.05, _GOLD)
    elif p.costume == "pirate":
        _legs(canvas, p, (70, 46, 32), (24, 20, 20))
        _torso(canvas, (250, 250, 250))
        for y in (0.4, 0.485, 0.57):
            canvas.rect(-0.138, y, 0.138, y + 0.042, (210, 26, 34))
        canvas.rect(-0.14, 0.35, 0.14, 0.395, (20, 18, 20))
        canvas.rect(-0.035, 0.345, 0.035, 0.4, _GOLD)
    elif p.costume == "astronaut":
        canvas.rect(-0.18, 0.4, 0.18, 0.68, (150, 156, 166), 0.04)
        _legs(canvas, p, (226, 230, 236), (120, 126, 136))
        _torso(canvas, (240, 243, 248))
        canvas.rect(-0.07, 0.45, 0.07, 0.56, (50, 110, 220), 0.015)
        canvas.ellipse(-0.03, 0.505, 0.02, 0.02, (230, 40, 40))
        canvas.ellipse(0.03, 0.505, 0.02, 0.02, (60, 210, 90))
    elif p.costume == "hero":
        canvas.polygon([(-0.13, 0.67), (0.13, 0.67), (0.24, 0.1), (-0.24, 0.1)], (214, 24, 36))
        _legs(canvas, p, (36, 84, 220), (214, 24, 36))
        _torso(canvas, (36, 84, 220))
        canvas.rect(-0.13, 0.36, 0.13, 0.4, _GOLD)
        canvas.polygon(
            [(0.03, 0.63), (-0.06, 0.51), (-0.005, 0.51), (-0.03, 0.42), (0.065, 0.55), (0.01, 0.55)], _GOLD
        )
    elif p.costume == "queen":
        canvas.polygon([(-0.1, 0.42), (0.1, 0.42), (0.25, 0.015), (-0.25, 0.015)], (255, 150, 204))
        canvas.polygon([(-0.235, 0.06), (0.235, 0.06), (0.25, 0.01), (-0.25, 0.01)], (255, 255, 255))
        canvas.polygon([(-0.12, 0.66), (0.12, 0.66), (0.09, 0.4), (-0.09, 0.4)], (255, 110, 184))
        canvas.rect(-0.095, 0.385, 0.095, 0.42, _GOLD)
    elif p.costume == "snowman":
        canvas.ellipse(0, 0.2, 0.22, 0.2, (250, 251, 255))
        canvas.ellipse(0, 0.5, 0.165, 0.175, (250, 251, 255))
        for y in (0.14, 0.26, 0.42, 0.52):
            canvas.ellipse(0, y, 0.024, 0.024, (30, 30, 36))
    else:
        for side in (-1, 1):
            canvas.rect(side * 0.075 - 0.045, 0.02, side * 0.075 + 0.045, 0.4, (120, 128, 138))
            canvas.rect(side * 0.085 - 0.07, 0.005, side * 0.085 + 0.07, 0.06, (70, 76, 86))
        canvas.rect(-0.165, 0.36, 0.165, 0.68, (168, 176, 186), 0.02)
        canvas.rect(-0.11, 0.45, 0.11, 0.62, (28, 34, 42), 0.01)
        for x, color in ((-0.06, (60, 230, 120)), (0.0, (250, 210, 50)), (0.06, (240, 70, 70))):
            canvas.ellipse(x, 0.535, 0.025, 0.025, color)


def draw_costume_head(canvas, p: Person) -> None:
    """A character's head and what is on it."""
    x, skin = p.lean, p.skin
    if p.costume == "wizard":
        canvas.ellipse(x, 0.80, 0.117, 0.13, skin)
        canvas.polygon(
            [(x - 0.12, 0.79), (x + 0.12, 0.79), (x + 0.08, 0.6), (x, 0.5), (x - 0.08, 0.6)], (244, 244, 248)
        )
        canvas.ellipse(x, 0.79, 0.1, 0.07, skin)
        draw_face(canvas, x, 0.02)
        canvas.polygon([(x - 0.14, 0.88), (x + 0.14, 0.88), (x + 0.03, 1.2)], _PURPLE)
        canvas.ellipse(x, 0.88, 0.21, 0.035, _PURPLE)
        _star(canvas, x + 0.01, 0.97, 0.055, _GOLD)
    elif p.costume == "pirate":
        canvas.ellipse(x, 0.80, 0.117, 0.13, skin)
        canvas.chord(x, 0.77, 0.115, 0.13, 25, 155, (30, 24, 22))
        draw_face(canvas, x)
        canvas.ellipse(x + 0.045, 0.79, 0.036, 0.034, (16, 14, 16))
        canvas.limb([(x - 0.11, 0.85), (x + 0.1, 0.8)], 0.016, (16, 14, 16))
        canvas.polygon(
            [(x - 0.25, 0.89), (x + 0.25, 0.89), (x + 0.13, 0.96), (x, 1.12), (x - 0.13, 0.96)], (22, 20, 24)
        )
        canvas.ellipse(x, 0.985, 0.042, 0.04, (250, 250, 250))
        canvas.rect(x - 0.022, 0.925, x + 0.022, 0.96, (250, 250, 250))
    elif p.costume == "astronaut":
        canvas.ellipse(x, 0.81, 0.185, 0.185, (240, 243, 248))
        canvas.ellipse(x, 0.8, 0.14, 0.13, (70, 120, 190))
        canvas.ellipse(x, 0.79, 0.115, 0.112, skin)
        draw_face(canvas, x)
        canvas.limb([(x + 0.15, 0.95), (x + 0.17, 1.04)], 0.02, (120, 126, 136))
        canvas.ellipse(x + 0.17, 1.05, 0.028, 0.028, (230, 40, 40))
    elif p.costume == "hero":
        canvas.ellipse(x, 0.83, 0.135, 0.125, (120, 60, 24))
        canvas.ellipse(x, 0.80, 0.117, 0.13, skin)
        canvas.chord(x, 0.86, 0.12, 0.085, 185, 355, (120, 60, 24))
        draw_face(canvas, x)
        canvas.rect(x - 0.115, 0.765, x + 0.115, 0.825, (214, 24, 36), 0.02)
        for side in (-1, 1):
            canvas.ellipse(x + side * 0.048, 0.795, 0.026, 0.02, (255, 255, 255))
    elif p.costume == "queen":
        canvas.ellipse(x, 0.83, 0.16, 0.15, (150, 84, 30))
        canvas.ellipse(x, 0.80, 0.117, 0.13, skin)
        canvas.chord(x, 0.85, 0.125, 0.09, 190, 350, (150, 84, 30))
        draw_face(canvas, x)
        canvas.polygon(
            [
                (x - 0.14, 0.9),
                (x - 0.16, 1.08),
                (x - 0.07, 0.98),
                (x, 1.12),
                (x + 0.07, 0.98),
                (x + 0.16, 1.08),
                (x + 0.14, 0.9),
            ],
            _GOLD,
        )
        for dx, color in ((-0.08, (220, 30, 60)), (0.0, (40, 120, 230)), (0.08, (220, 30, 60))):
            canvas.ellipse(x + dx, 0.93, 0.022, 0.022, color)
    elif p.costume == "snowman":
        canvas.ellipse(x, 0.79, 0.15, 0.145, (250, 251, 255))
        canvas.rect(x - 0.13, 0.635, x + 0.13, 0.69, (240, 120, 30), 0.02)
        canvas.rect(x + 0.05, 0.5, x + 0.11, 0.66, (240, 120, 30), 0.015)
        canvas.ellipse(x, 0.785, 0.1, 0.1, skin)
        draw_face(canvas, x)
        canvas.polygon([(x - 0.01, 0.805), (x - 0.01, 0.765), (x + 0.09, 0.775)], (240, 120, 30))
        canvas.rect(x - 0.1, 0.89, x + 0.1, 1.08, (30, 30, 36))
        canvas.rect(x - 0.17, 0.88, x + 0.17, 0.91, (30, 30, 36))
    else:
        canvas.rect(x - 0.03, 0.66, x + 0.03, 0.72, (90, 96, 106))
        canvas.rect(x - 0.15, 0.7, x + 0.15, 0.94, (168, 176, 186), 0.025)
        canvas.rect(x - 0.115, 0.722, x + 0.115, 0.88, skin, 0.03)
        draw_face(canvas, x, 0.01)
        for side in (-1, 1):
            canvas.ellipse(x + side * 0.1, 0.912, 0.018, 0.018, (60, 240, 250))
            canvas.rect(x + side * 0.165 - 0.018, 0.78, x + side * 0.165 + 0.018, 0.87, (90, 96, 106))
        canvas.limb([(x, 0.94), (x, 1.05)], 0.02, (90, 96, 106))
        canvas.ellipse(x, 1.06, 0.034, 0.034, (240, 60, 60))
