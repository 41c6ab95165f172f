// The instructions of AMX for a CPU that does not have them: each raises SIGILL, and what is here decodes it, does what
// Intel's manual says and goes on behind it. So it is the compiled kernel that runs, its encodings, registers and
// addresses; kernels/amx.h, which emulates the same in another way, is not asked.
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static unsigned char config[64]; // as LDTILECFG reads it
static uint32_t tile[8][16][16];

static int rows(int number)
{
    return config[48 + number];
}

static int words(int number)
{
    return (config[16 + 2 * number] | config[17 + 2 * number] << 8) / 4;
}

static void insist(bool allowed)
{
    if (!allowed) abort();
}

static float normal_or_zero(float v)
{
    return fpclassify(v) == FP_SUBNORMAL ? copysignf(0.0f, v) : v;
}

static float half(uint32_t word, int which)
{
    const uint32_t bits = which ? word & 0xffff0000u : word << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return normal_or_zero(v);
}

static void multiply(int sum, int left, int right)
{
    insist(rows(sum) && rows(sum) == rows(left) && words(left) == rows(right) && words(sum) == words(right));
    for (int m = 0; m < rows(sum); ++m)
        for (int n = 0; n < words(sum); ++n) {
            float chain[2] = {}, before;
            for (int k = 0; k < words(left); ++k)
                for (int which = 0; which < 2; ++which)
                    chain[which] = normal_or_zero(
                        fmaf(half(tile[left][m][k], which), half(tile[right][k][n], which), chain[which]));
            memcpy(&before, &tile[sum][m][n], sizeof before);
            const float now = normal_or_zero(normal_or_zero(before) + normal_or_zero(chain[0] + chain[1]));
            memcpy(&tile[sum][m][n], &now, sizeof now);
        }
}

static void configure(const char *from)
{
    memcpy(config, from, sizeof config);
    memset(tile, 0, sizeof tile);
    insist(config[0] == 1 && config[1] == 0);
    for (int number = 0; number < 8; ++number)
        insist(rows(number) <= 16 && words(number) <= 16 && !rows(number) == !words(number));
}

static void load(int number, const char *from, long stride)
{
    insist(rows(number));
    memset(tile[number], 0, sizeof tile[number]);
    for (int m = 0; m < rows(number); ++m) memcpy(tile[number][m], from + m * stride, 4 * words(number));
}

static void store(int number, char *to, long stride)
{
    insist(rows(number));
    for (int m = 0; m < rows(number); ++m) memcpy(to + m * stride, tile[number][m], 4 * words(number));
}

// A VEX instruction of map 2, without W and L, taken apart.
struct Instruction {
    int opcode, prefix, mod, reg, rm, third;
    char *base;
    long index;
    const unsigned char *end;
};

static Instruction decode(const greg_t *registers)
{
    static const int order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    const unsigned char *at = reinterpret_cast<const unsigned char *>(registers[REG_RIP]);
    insist(at[0] == 0xc4 && (at[1] & 31) == 2 && (at[2] & 0x84) == 0);
    const int x = at[1] & 0x40 ? 0 : 8, b = at[1] & 0x20 ? 0 : 8;
    Instruction found = {at[3], at[2] & 3, at[4] >> 6, at[4] >> 3 & 7, at[4] & 7, ~at[2] >> 3 & 15, nullptr, 0, at + 5};
    if (found.mod == 3) return found;
    int base = found.rm;
    if (found.rm == 4) {
        const int sib = *found.end++, index = (sib >> 3 & 7) | x;
        if (index != 4) found.index = registers[order[index]] * (1 << (sib >> 6));
        base = sib & 7;
    }
    insist(found.mod != 0 || base != 5); // addresses without a base register
    int32_t shift = 0;
    if (found.mod == 1) shift = static_cast<signed char>(*found.end);
    if (found.mod == 2) memcpy(&shift, found.end, sizeof shift);
    found.end += found.mod == 1 ? 1 : found.mod == 2 ? 4 : 0;
    found.base = reinterpret_cast<char *>(registers[order[base | b]]) + shift;
    return found;
}

enum { NONE = 0, F3 = 2, F2 = 3 };

static void execute(int, siginfo_t *, void *context)
{
    greg_t *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    const Instruction i = decode(registers);
    const bool memory = i.mod != 3;
    if (i.opcode == 0x49 && i.prefix == NONE && memory)
        configure(i.base);
    else if (i.opcode == 0x49 && i.prefix == NONE && i.reg == 0 && i.rm == 0)
        memset(config, 0, sizeof config);
    else if (i.opcode == 0x4b && i.prefix == F2 && memory)
        load(i.reg, i.base, i.index);
    else if (i.opcode == 0x4b && i.prefix == F3 && memory)
        store(i.reg, i.base, i.index);
    else if (i.opcode == 0x5c && i.prefix == F3 && !memory)
        multiply(i.reg, i.rm, i.third);
    else
        abort();
    registers[REG_RIP] = reinterpret_cast<greg_t>(i.end);
}

__attribute__((constructor)) static void take_over()
{
    struct sigaction action = {};
    action.sa_sigaction = execute;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, nullptr);
}
