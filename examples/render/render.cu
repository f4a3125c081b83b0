// Draws balls on a chequered floor by following light backwards. render.ptx is made of it by Debian's clang, with no CUDA
// toolkit:
//
//   clang -x cuda --cuda-device-only --cuda-gpu-arch=sm_50 -nocudainc -nocudalib -O2 -S render.cu -o - | expand | sed "s/ *$//" > render.ptx
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))

struct Vector {
  float x, y, z;
};
__device__ inline Vector operator+(Vector a, Vector b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
__device__ inline Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
__device__ inline Vector operator*(Vector a, float by) { return {a.x * by, a.y * by, a.z * by}; }
__device__ inline float Dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
__device__ inline Vector Unit(Vector a) { return a * (1 / __builtin_sqrtf(Dot(a, a))); }

struct Ball {
  Vector centre;
  float radius;
  Vector colour;
  float mirror;  // 0: dull, 1: a mirror
};

struct Hit {
  float distance;  // 0: nothing was hit
  Vector place, normal, colour;
  float mirror;
};

__device__ Hit Trace(Vector from, Vector to, const Ball* balls, int count) {
  Hit hit = {0, {}, {}, {}, 0};
  if (to.y < -1e-4f) {
    const float distance = -from.y / to.y;
    const Vector place = from + to * distance;
    if (distance > 1e-3f && distance < 60) {
      const int square = (int)__builtin_floorf(place.x) + (int)__builtin_floorf(place.z);
      const float shade = square % 2 == 0 ? 0.9f : 0.25f;
      hit = {distance, place, {0, 1, 0}, {shade, shade, shade}, 0.1f};
    }
  }
  for (int i = 0; i < count; ++i) {
    const Vector away = from - balls[i].centre;
    const float b = Dot(away, to), c = Dot(away, away) - balls[i].radius * balls[i].radius, root = b * b - c;
    if (root < 0) continue;
    const float distance = -b - __builtin_sqrtf(root);
    if (distance < 1e-3f || (hit.distance != 0 && distance > hit.distance)) continue;
    const Vector place = from + to * distance;
    hit = {distance, place, Unit(place - balls[i].centre), balls[i].colour, balls[i].mirror};
  }
  return hit;
}

// One thread for each pixel of rows `first_row` and on of a picture of `width` times `height`, three bytes each.
extern "C" __global__ void render(unsigned char* pixels, int width, int height, int first_row, int rows, const Ball* balls,
                                  int count) {
  const int x = __nvvm_read_ptx_sreg_ctaid_x() * __nvvm_read_ptx_sreg_ntid_x() + __nvvm_read_ptx_sreg_tid_x();
  const int row = __nvvm_read_ptx_sreg_ctaid_y() * __nvvm_read_ptx_sreg_ntid_y() + __nvvm_read_ptx_sreg_tid_y();
  if (x >= width || row >= rows) return;
  const Vector light = Unit({-0.5f, 0.8f, -0.4f});
  Vector from = {0, 1.6f, -6}, colour = {0, 0, 0};
  Vector to = Unit({(x - 0.5f * width) / height, (0.5f * height - (first_row + row)) / height - 0.12f, 1.2f});
  float weight = 1;
  for (int bounce = 0; bounce < 4 && weight > 0.01f; ++bounce) {
    const Hit hit = Trace(from, to, balls, count);
    if (hit.distance == 0) {  // the sky
      const float up = to.y > 0 ? to.y : 0;
      colour = colour + Vector{0.7f - 0.4f * up, 0.8f - 0.3f * up, 1} * weight;
      break;
    }
    const float facing = Dot(hit.normal, light);
    const bool lit = facing > 0 && Trace(hit.place, light, balls, count).distance == 0;
    colour = colour + hit.colour * (weight * (1 - hit.mirror) * (lit ? 0.2f + 0.8f * facing : 0.2f));
    weight *= hit.mirror;
    from = hit.place;
    to = to - hit.normal * (2 * Dot(to, hit.normal));
  }
  const float parts[3] = {colour.x, colour.y, colour.z};
  unsigned char* const pixel = pixels + 3 * ((long)row * width + x);
  for (int i = 0; i < 3; ++i) pixel[i] = (unsigned char)(255 * __builtin_sqrtf(parts[i] < 0 ? 0 : parts[i] > 1 ? 1 : parts[i]));
}
