// Kernels of ordinary kinds, in CUDA C. kernels.ptx is made of it by Debian's clang, with no CUDA toolkit:
//
//   clang -x cuda --cuda-device-only --cuda-gpu-arch=sm_70 -Xclang -target-feature -Xclang +ptx64 -nocudainc -nocudalib \
//     -O2 -S kernels.cu -o - | expand | sed "s/ *$//" > kernels.ptx
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __noinline __attribute__((noinline))

typedef unsigned long long u64;

__device__ inline int tx() { return __nvvm_read_ptx_sreg_tid_x(); }
__device__ inline int ty() { return __nvvm_read_ptx_sreg_tid_y(); }
__device__ inline int bx() { return __nvvm_read_ptx_sreg_ctaid_x(); }
__device__ inline int by() { return __nvvm_read_ptx_sreg_ctaid_y(); }
__device__ inline int wide() { return __nvvm_read_ptx_sreg_ntid_x(); }
__device__ inline int self() { return bx() * wide() + tx(); }

extern "C" {

__device__ int printf(const char*, ...);
__device__ void __assertfail(const void* message, const void* file, unsigned line, const void* function, unsigned long bytes)
    __attribute__((noreturn));

__global__ void vector_add(const float* a, const float* b, float* c, int n) {
  const int i = self();
  if (i < n) c[i] = a[i] + b[i];
}

__global__ void tiled_matmul(const float* a, const float* b, float* c, int n) {
  __shared__ float as[16][16], bs[16][16];
  const int row = by() * 16 + ty(), column = bx() * 16 + tx();
  float sum = 0;
  for (int tile = 0; tile < n / 16; ++tile) {
    as[ty()][tx()] = a[row * n + tile * 16 + tx()];
    bs[ty()][tx()] = b[(tile * 16 + ty()) * n + column];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 16; ++k) sum += as[ty()][k] * bs[k][tx()];
    __syncthreads();
  }
  c[row * n + column] = sum;
}

// Of each warp by shuffles, of the block by shared memory, of the grid by an atomic.
__global__ void reduce(const int* in, int* out, int n) {
  __shared__ int of_warp[32];
  int sum = self() < n ? in[self()] : 0;
  for (int distance = 16; distance > 0; distance /= 2)
    sum += __nvvm_shfl_sync_down_i32(0xffffffff, sum, distance, 0x1f);
  if (tx() % 32 == 0) of_warp[tx() / 32] = sum;
  __syncthreads();
  if (tx() == 0) {
    for (int i = 1; i < wide() / 32; ++i) sum += of_warp[i];
    __nvvm_atom_add_gen_i(out, sum);
  }
}

// An inclusive scan of one block, in dynamic shared memory.
extern __shared__ int scratch[];
__global__ void scan(int* data) {
  scratch[tx()] = data[tx()];
  __syncthreads();
  for (int distance = 1; distance < wide(); distance *= 2) {
    const int before = tx() >= distance ? scratch[tx() - distance] : 0;
    __syncthreads();
    scratch[tx()] += before;
    __syncthreads();
  }
  data[tx()] = scratch[tx()];
}

__global__ void histogram(const unsigned char* in, unsigned* bins, int n) {
  __shared__ unsigned own[256];
  own[tx()] = 0;
  __syncthreads();
  for (int i = self(); i < n; i += wide() * __nvvm_read_ptx_sreg_nctaid_x())
    __nvvm_atom_add_gen_i((int*)&own[in[i]], 1);
  __syncthreads();
  __nvvm_atom_add_gen_i((int*)&bins[tx()], own[tx()]);
}

__global__ void transpose(const double* in, double* out, int n) {
  __shared__ double tile[16][17];
  tile[ty()][tx()] = in[(by() * 16 + ty()) * n + bx() * 16 + tx()];
  __syncthreads();
  out[(bx() * 16 + ty()) * n + by() * 16 + tx()] = tile[tx()][ty()];
}

struct Body {
  float x, y, z, mass;
};
__global__ void forces(const Body* bodies, Body* out, int n) {
  const Body me = bodies[self()];
  float fx = 0, fy = 0, fz = 0;
  for (int i = 0; i < n; ++i) {
    const Body other = bodies[i];
    const float dx = other.x - me.x, dy = other.y - me.y, dz = other.z - me.z;
    const float inverse = __nvvm_rsqrt_approx_f(dx * dx + dy * dy + dz * dz + 0.01f);
    const float force = other.mass * inverse * inverse * inverse;
    fx += dx * force, fy += dy * force, fz += dz * force;
  }
  out[self()] = {fx, fy, fz, me.mass};
}

// The price of European options (Black and Scholes, 1973). The normal distribution by a polynomial of Abramowitz
// and Stegun's handbook (26.2.17), to 7.5e-8.
__device__ inline float exponential(float x) { return __nvvm_ex2_approx_f(x * 1.44269504f); }
__device__ inline float cumulative_normal(float x) {
  const float k = __nvvm_div_approx_f(1, 1 + 0.2316419f * __nvvm_fabs_f(x));
  const float tail = 0.39894228f * exponential(-0.5f * x * x) *
                     (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
  return x > 0 ? 1 - tail : tail;
}
__global__ void black_scholes(const float* price, const float* strike, const float* years, float* call, float* put, int n,
                              float rate, float volatility) {
  for (int i = self(); i < n; i += wide() * __nvvm_read_ptx_sreg_nctaid_x()) {
    const float root = __nvvm_sqrt_approx_f(years[i]);
    const float logarithm = __nvvm_lg2_approx_f(price[i] / strike[i]) * 0.69314718f;
    const float d1 = (logarithm + (rate + 0.5f * volatility * volatility) * years[i]) / (volatility * root);
    const float d2 = d1 - volatility * root;
    const float discounted = strike[i] * exponential(-rate * years[i]);
    const float n1 = cumulative_normal(d1), n2 = cumulative_normal(d2);
    call[i] = price[i] * n1 - discounted * n2;
    put[i] = discounted * (1 - n2) - price[i] * (1 - n1);
  }
}

// Bitonic, of one block.
__global__ void sort(int* data, int n) {
  __shared__ int keys[512];
  for (int i = tx(); i < n; i += wide()) keys[i] = data[i];
  __syncthreads();
  for (int size = 2; size <= n; size *= 2) {
    for (int distance = size / 2; distance > 0; distance /= 2) {
      for (int i = tx(); i < n; i += wide()) {
        const int other = i ^ distance;
        if (other > i && (keys[i] > keys[other]) == ((i & size) == 0)) {
          const int key = keys[i];
          keys[i] = keys[other];
          keys[other] = key;
        }
      }
      __syncthreads();
    }
  }
  for (int i = tx(); i < n; i += wide()) data[i] = keys[i];
}

struct Link {
  Link* next;
  long value;
};
__global__ void walk(Link** heads, long* sums) {
  long sum = 0;
  for (const Link* link = heads[self()]; link != nullptr; link = link->next) sum += link->value;
  sums[self()] = sum;
}

// Lanes that go different ways, and for different times.
__global__ void collatz(const unsigned* in, unsigned* steps, int n) {
  if (self() >= n) return;
  u64 x = in[self()];
  unsigned count = 0;
  while (x != 1) {
    x = x % 2 == 0 ? x / 2 : 3 * x + 1;
    ++count;
  }
  steps[self()] = count;
}

__noinline __device__ double polynomial(double x, int degree) {
  double sum = 0;
  for (int i = 0; i <= degree; ++i) sum = sum * x + i;
  return sum;
}
__noinline __device__ double twice(double x, int degree) { return polynomial(x, degree) + polynomial(-x, degree + 1); }
__global__ void calls(const double* in, double* out) {
  out[self()] = self() % 3 == 0 ? twice(in[self()], self() % 5) : polynomial(in[self()], 7);
}

// Functions that come back to themselves: one alone, two by turns, and one with memory of its own.
__noinline __device__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__device__ int male(int n);
__noinline __device__ int female(int n) { return n == 0 ? 1 : n - male(female(n - 1)); }
__noinline __device__ int male(int n) { return n == 0 ? 0 : n - female(male(n - 1)); }
__noinline __device__ long long remember(int n) {
  volatile int own[4];
  for (int i = 0; i < 4; ++i) own[i] = n * (i + 1);
  return n == 0 ? 0 : remember(n - 1) * 3 % 1000003 + own[n & 3];
}
// What is above reaches into what each call has of its own.
__noinline __device__ int climb(int n, int* above) {
  int own[3] = {n, n + 1, *above};
  if (n == 0) return *above += 5;
  const int more = climb(n - 1, own + n % 3);
  *above += own[n % 3] % 1000;
  return more + own[(n + 1) % 3];
}
__global__ void recursion(int* out, long long* remembered, int deep) {
  const int n = self();
  if (deep < 0) {
    int top = n;
    out[n] = climb(n % 9, &top) * 1000 + top;
    return;
  }
  out[n] = n % 2 == 0 ? fibonacci(n % 13) : female(n % 17) - male(n % 11);
  if (n % 3 != 0) remembered[n] = remember(n % 29 + deep);
}

// Through pointers, of which the fourth goes through them again.
typedef int (*Step)(int, int);
__noinline __device__ int plus(int a, int b) { return a + b; }
__noinline __device__ int times(int a, int b) { return a * b; }
__noinline __device__ int minus(int a, int b) { return a - b; }
__device__ int nested(int a, int b);
__device__ Step steps[4] = {plus, times, minus, nested};
__noinline __device__ int nested(int a, int b) {
  if (b <= 0) return a + 1;
  const int first = steps[(a + b) & 3](a, b - 1);
  return first % 1009 + 3 * steps[(first ^ b) & 3](b, a % 4 - 1) % 1009 + a;
}
__global__ void pointers(Step* own, int* out, int n) {
  if (self() == 0) own[0] = times;
  if (self() < n) out[self()] = steps[self() & 3](self() % 21, self() % 6);
}
__global__ void by_pointer(Step step, int* out) { out[self()] = step(self(), 7); }

struct Shape {
  __device__ virtual float area(float scale) const = 0;
};
struct Square : Shape {
  float side;
  __device__ float area(float scale) const override { return side * side * scale; }
};
struct Pair : Shape {
  const Shape *one, *other;
  __device__ float area(float scale) const override { return one->area(scale) + other->area(2 * scale); }
};
__global__ void virtuals(float* out) {
  Square small, large;
  small.side = tx();
  large.side = 3;
  Pair pair, pairs;
  pair.one = &small;
  pair.other = &large;
  pairs.one = tx() % 2 == 0 ? (const Shape*)&pair : &large;
  pairs.other = tx() % 5 == 0 ? (const Shape*)&small : &pair;
  const Shape* const all[3] = {&small, &pair, &pairs};
  out[self()] = all[tx() % 3]->area(1);
}

// A table of branches, and memory of each thread's own.
__global__ void machine(const int* program, int* out, int length) {
  int stack[16];
  int top = 0;
  stack[0] = self();
  for (int i = 0; i < length; ++i) {
    const int value = stack[top & 15];
    switch (program[(i + self()) % length]) {
      case 0: stack[++top & 15] = i; break;
      case 1: stack[top & 15] = value * 3; break;
      case 2: stack[top & 15] = value ^ 0x55; break;
      case 3: stack[top & 15] = value - i; break;
      case 4: stack[top & 15] = value >> 1; break;
      case 5: --top; break;
      case 6: stack[top & 15] += stack[(top - 1) & 15]; break;
      default: stack[top & 15] = -value;
    }
  }
  out[self()] = stack[top & 15];
}

__constant__ int primes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
__device__ int counter = 40;
__device__ int* pointer_to_counter = &counter;
__global__ void globals(int* out) {
  out[tx()] = primes[tx() % 8];
  if (tx() == 0) *pointer_to_counter += 2;
}

__global__ void out_of_bounds(int* data, int at) { data[at] = 1; }
__global__ void never_ends(volatile int* flag) {
  while (*flag == 0) {
  }
}


__global__ void speak(int n) {
  if (self() < n)
    printf("thread %d of %d: %5.2f %s %c %lld %-4x| %*d %%\n", self(), n, self() * 0.5, "text", 'x', (long long)self() << 40, 255, 6, -7);
}
__global__ void insist(int n) {
  if (self() == n) __assertfail("self() != n", "kernels.cu", 42, "insist", 1);
}
}
