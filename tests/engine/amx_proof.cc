// What the check that stands before AMX says of the emulated tiles, and of others that err in one way each. Exits with
// 0 where it lets the right ones pass and none of the others.
#include "amx_proof.h"

static void without_low_parts(Factors, Index rows, Index width, const TileJob &job, const LowParts &low)
{
    amx_product(HALVES, rows, width, job, low);
}

static void without_lower_rows(Factors factors, Index rows, Index width, const TileJob &job, const LowParts &low)
{
    amx_product(factors, rows < 16 ? rows : 16, width, job, low);
}

static void with_a_row_too_many(Factors factors, Index rows, Index width, const TileJob &job, const LowParts &low)
{
    amx_product(factors, rows < 32 ? rows + 1 : rows, width, job, low);
}

static void with_columns_exchanged(Factors factors, Index rows, Index width, const TileJob &job, const LowParts &low)
{
    amx_product(factors, rows, width, job, low);
    const float first = job.c[0];
    job.c[0] = job.c[1];
    job.c[1] = first;
}

static void with_words_shifted(Factors factors, Index rows, Index width, const TileJob &job, const LowParts &low)
{
    TileJob shifted = job;
    shifted.a += 1; // each word meets the next one's partner
    amx_product(factors, rows, width, shifted, low);
}

int main()
{
    const Product wrong[] = {without_low_parts, without_lower_rows, with_a_row_too_many, with_columns_exchanged,
                             with_words_shifted};
    for (Product product : wrong)
        if (products_are_right(product)) return 1;
    return products_are_right(amx_product) ? 0 : 2;
}
