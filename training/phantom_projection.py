"""From bodies in millimetres to maps on the film: the frame of one exposure, and mass splatting.

Large smooth organs are evaluated per pixel; thin ones (ribs, vessels, strands) are clouds of small masses
that are spread over the four nearest pixels. Splatting keeps sub-pixel position and total mass, needs no
mesh, and works for any view; the price is a cloud dense enough to hide its points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Frame:
    """Placement of the body on a film of `rows` x `columns` pixels."""

    rows: int
    columns: int
    pixel_mm: float
    origin_row: float
    """Pixel row of the body's origin (midline at the lung apices)."""
    origin_column: float
    rotation_deg: float = 0.0
    """In-plane rotation of the body, clockwise on the film."""

    def grid(self) -> tuple[Float32, Float32]:
        """Body coordinates (x, z) in mm of every pixel centre, each (rows, columns) float32."""
        row, column = np.mgrid[0 : self.rows, 0 : self.columns].astype(np.float32)
        angle = np.deg2rad(self.rotation_deg)
        right = (column + 0.5 - self.origin_column) * self.pixel_mm
        down = (row + 0.5 - self.origin_row) * self.pixel_mm
        x = right * np.cos(angle) + down * np.sin(angle)
        z = down * np.cos(angle) - right * np.sin(angle)
        return x.astype(np.float32), z.astype(np.float32)

    def to_pixel(self, x: Float32, z: Float32) -> tuple[Float32, Float32]:
        """Body coordinates in mm to pixel-edge (row, column)."""
        angle = np.deg2rad(self.rotation_deg)
        right = x * np.cos(angle) - z * np.sin(angle)
        down = z * np.cos(angle) + x * np.sin(angle)
        return down / self.pixel_mm + self.origin_row, right / self.pixel_mm + self.origin_column

    def splat(self, x: Float32, z: Float32, volume_mm3: Float32) -> Float32:
        """Spread masses over the film.

        Args:
            x: (n,) mm.
            z: (n,) mm.
            volume_mm3: (n,) volume of material at each point.

        Returns:
            (rows, columns) float32 thickness of that material in mm.
        """
        row, column = self.to_pixel(x, z)
        row, column = row - 0.5, column - 0.5
        keep = (row >= 0) & (row < self.rows - 1) & (column >= 0) & (column < self.columns - 1)
        film = np.zeros((self.rows, self.columns), np.float32)
        if not keep.any():
            return film
        row, column, volume = row[keep], column[keep], volume_mm3[keep]
        top, left = row.astype(np.int32), column.astype(np.int32)
        down, right = row - top, column - left
        first_row, first_column = int(top.min()), int(left.min())
        width = int(left.max()) - first_column + 2
        height = int(top.max()) - first_row + 2
        index = (top - first_row) * width + (left - first_column)
        window = np.zeros(height * width, np.float64)
        for offset, weight in (
            (0, (1 - down) * (1 - right)),
            (1, (1 - down) * right),
            (width, down * (1 - right)),
            (width + 1, down * right),
        ):
            window += np.bincount(index + offset, weights=volume * weight, minlength=window.size)
        box = np.s_[first_row : first_row + height, first_column : first_column + width]
        film[box] = (window / self.pixel_mm**2).reshape(height, width)
        return film
