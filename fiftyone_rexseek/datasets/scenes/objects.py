"""Faces, hats, held objects and dogs: large, flat, each with an outline of its own."""

from __future__ import annotations

from .people import COLORS, Dog, Person

_DARK = (40, 36, 40)


def _dim(color, factor=0.8):
    return tuple(int(c * factor) for c in color)


def draw_face(canvas, x: float, y: float = 0.0) -> None:
    """Two eyes and a smile; ``y`` moves them from where a standing person has them."""
    if canvas.is_map:
        return
    for side in (-1, 1):
        canvas.ellipse(x + side * 0.044, 0.79 + y, 0.014, 0.018, (30, 26, 30))
        canvas.ellipse(x + side * 0.075, 0.755 + y, 0.02, 0.012, (238, 140, 128))
    canvas.arc(x, 0.762 + y, 0.045, 0.034, 20, 160, (120, 40, 40), 0.014)


def draw_hat(canvas, p: Person, x: float) -> None:
    """A hat on a head at (x, 0.80): top, sun, party or wool."""
    color = COLORS[p.hat_color]
    dim = _dim(color)
    if p.hat == "top":
        canvas.rect(x - 0.115, 0.89, x + 0.115, 1.12, color)
        canvas.rect(x - 0.115, 0.91, x + 0.115, 0.95, _DARK)
        canvas.rect(x - 0.185, 0.868, x + 0.185, 0.908, color, 0.015)
    elif p.hat == "sun":
        canvas.chord(x, 0.9, 0.135, 0.13, 180, 360, color)
        canvas.rect(x - 0.13, 0.9, x + 0.13, 0.928, dim)
        canvas.ellipse(x, 0.892, 0.265, 0.042, color)
    elif p.hat == "party":
        canvas.polygon([(x - 0.13, 0.87), (x + 0.13, 0.87), (x, 1.16)], color)
        for y, half in ((0.92, 0.107), (1.0, 0.072)):
            canvas.polygon(
                [(x - half, y), (x + half, y), (x + half - 0.014, y + 0.03), (x - half + 0.014, y + 0.03)],
                (255, 255, 255) if p.hat_color != "white" else (90, 90, 200),
            )
        canvas.ellipse(x, 1.16, 0.035, 0.035, (255, 240, 120))
    else:
        canvas.chord(x, 0.9, 0.16, 0.15, 180, 360, color)
        canvas.rect(x - 0.165, 0.862, x + 0.165, 0.918, dim, 0.02)
        canvas.ellipse(x, 1.06, 0.05, 0.05, (255, 255, 255) if p.hat_color != "white" else (200, 60, 70))


def draw_held(canvas, p: Person, head: tuple[float, float]) -> None:
    """A held object; the origin is the hand, ``head`` the top of the head seen from it."""
    color = COLORS[p.held_color]
    s = p.held_side
    if p.held == "balloon":
        canvas.limb([(0, 0), (0.045 * s, 0.36)], 0.012, (80, 80, 80))
        canvas.polygon([(0.02 * s, 0.33), (0.07 * s, 0.33), (0.045 * s, 0.37)], _dim(color))
        canvas.ellipse(0.045 * s, 0.49, 0.115, 0.14, color)
        if not canvas.is_map:
            canvas.ellipse(0.01 * s, 0.54, 0.025, 0.035, _mix(color))
    elif p.held == "umbrella":
        hx, hy = head[0] + 0.02 * s, head[1] + 0.06
        canvas.limb([(0, -0.08), (0, hy + 0.02)], 0.022, (90, 60, 40))
        canvas.chord(hx, hy - 0.01, 0.33, 0.215, 180, 360, color)
        canvas.chord(hx, hy - 0.01, 0.12, 0.215, 180, 360, _dim(color, 0.86))
    elif p.held == "ball":
        canvas.ellipse(0.03 * s, -0.02, 0.12, 0.12, color)
        canvas.rect(0.03 * s - 0.118, -0.045, 0.03 * s + 0.118, 0.005, (255, 255, 255), 0.01)
        canvas.ellipse(0.03 * s, -0.02, 0.035, 0.035, (255, 255, 255))
    elif p.held == "bag":
        canvas.arc(0.01 * s, -0.06, 0.05, 0.07, 180, 360, _DARK, 0.018)
        canvas.rect(0.01 * s - 0.11, -0.27, 0.01 * s + 0.11, -0.06, color, 0.02)
        canvas.rect(0.01 * s - 0.11, -0.13, 0.01 * s + 0.11, -0.105, _dim(color, 0.7))
    elif p.held == "book":
        canvas.polygon(
            [(-0.125, 0.16), (0, 0.13), (0.125, 0.16), (0.125, -0.06), (0, -0.09), (-0.125, -0.06)], color
        )
        canvas.polygon([(-0.1, 0.145), (-0.008, 0.12), (-0.008, -0.065), (-0.1, -0.042)], (252, 250, 240))
        canvas.polygon([(0.1, 0.145), (0.008, 0.12), (0.008, -0.065), (0.1, -0.042)], (252, 250, 240))
        if not canvas.is_map:
            for y in (0.02, 0.06, 0.1):
                canvas.limb([(-0.085, y), (-0.025, y - 0.015)], 0.01, (120, 120, 130))
                canvas.limb([(0.085, y), (0.025, y - 0.015)], 0.01, (120, 120, 130))
    else:
        canvas.limb([(0, -0.1), (0, 0.13)], 0.024, (30, 130, 50))
        canvas.ellipse(0.05, 0.0, 0.05, 0.022, (30, 130, 50))
        for dx, dy in ((0, 0.075), (0.071, 0.023), (0.044, -0.06), (-0.044, -0.06), (-0.071, 0.023)):
            canvas.ellipse(dx, 0.2 + dy, 0.056, 0.056, color)
        canvas.ellipse(0, 0.2, 0.045, 0.045, (255, 225, 70) if p.held_color != "yellow" else (150, 80, 30))


def _mix(color):
    return tuple(int(c + (255 - c) * 0.6) for c in color)


def draw_dog(canvas, dog: Dog) -> None:
    """A dog seen from the side, looking away from its owner; origin at its feet, unit one adult."""
    c, s = dog.color, dog.side
    dark = _dim(c, 0.72)
    if not canvas.is_map:
        keep, canvas.id = canvas.id, 0
        canvas.ellipse(0, 0.004, 0.19, 0.018, (60, 66, 60))
        canvas.id = keep
    for dx in (-0.115, -0.06, 0.06, 0.115):
        canvas.limb([(dx, 0.12), (dx, 0.025)], 0.042, dark if abs(dx) < 0.1 else c)
    canvas.ellipse(0, 0.155, 0.165, 0.075, c)
    canvas.limb([(-0.14 * s, 0.18), (-0.19 * s, 0.27)], 0.034, c)
    canvas.ellipse(0.14 * s, 0.255, 0.075, 0.07, c)
    canvas.ellipse(0.2 * s, 0.235, 0.045, 0.034, c)
    canvas.ellipse(0.11 * s, 0.245, 0.028, 0.06, dark)
    if not canvas.is_map:
        canvas.ellipse(0.235 * s, 0.245, 0.016, 0.014, (20, 16, 18))
        canvas.ellipse(0.155 * s, 0.275, 0.011, 0.013, (20, 16, 18))
        if dog.leash:
            canvas.limb([(0.07 * s, 0.205), (0.12 * s, 0.19)], 0.024, (190, 24, 34))
