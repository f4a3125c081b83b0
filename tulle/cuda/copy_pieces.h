// Cuts copies into pieces.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tulle/cuda/device.h"

namespace tulle::cuda {

// Pieces of at most so many bytes that make up a copy of at least one: whole planes, whole rows, or parts of
// a row.
inline std::vector<CopyShape> PiecesOf(const CopyShape& shape, std::uint64_t most_bytes) {
  std::vector<CopyShape> pieces;
  const auto part = [&](std::uint64_t x, std::uint64_t y, std::uint64_t z, std::uint64_t width,
                        std::uint64_t height, std::uint64_t depth) {
    CopyShape piece = shape;
    piece.to.address += z * shape.to.slice + y * shape.to.pitch + x;
    piece.from.address += z * shape.from.slice + y * shape.from.pitch + x;
    piece.width = width;
    piece.height = height;
    piece.depth = depth;
    pieces.push_back(piece);
  };
  const std::uint64_t plane = shape.width * shape.height;
  if (plane <= most_bytes) {
    const std::uint64_t step = most_bytes / plane;
    for (std::uint64_t z = 0; z < shape.depth; z += step)
      part(0, 0, z, shape.width, shape.height, std::min(step, shape.depth - z));
    return pieces;
  }
  for (std::uint64_t z = 0; z < shape.depth; ++z) {
    if (shape.width <= most_bytes) {
      const std::uint64_t step = most_bytes / shape.width;
      for (std::uint64_t y = 0; y < shape.height; y += step)
        part(0, y, z, shape.width, std::min(step, shape.height - y), 1);
      continue;
    }
    for (std::uint64_t y = 0; y < shape.height; ++y) {
      for (std::uint64_t x = 0; x < shape.width; x += most_bytes)
        part(x, y, z, std::min(most_bytes, shape.width - x), 1, 1);
    }
  }
  return pieces;
}

}  // namespace tulle::cuda
