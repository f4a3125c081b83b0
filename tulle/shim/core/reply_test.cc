#include "tulle/shim/core/reply.h"

#include <gtest/gtest.h>

namespace tulle::shim {
namespace {

ByteVector Encoded(std::int32_t status) {
  const wire::StatusReply reply{status};
  ByteVector body(wire::EncodedSize(reply));
  wire::Encode(reply, body);
  return body;
}

TEST(ReplyTable, FindsWhoWaits) {
  ReplyTable table;
  StatusWait near, far;
  ASSERT_TRUE(table.Add(5, &near));
  ASSERT_TRUE(table.Add(5 + 256, &far));  // the same bucket
  EXPECT_EQ(near.sequence(), 5u);
  EXPECT_EQ(table.Find(5), &near);
  EXPECT_EQ(table.Take(5 + 256), &far);
  EXPECT_EQ(table.Take(5 + 256), nullptr);
  EXPECT_EQ(table.Take(6), nullptr);
  ASSERT_TRUE(table.Take(5)->OnReply(Encoded(-36), {}).ok());
  EXPECT_TRUE(near.done());
  EXPECT_FALSE(near.lost());
  EXPECT_EQ(near.status, -36);
  EXPECT_FALSE(far.done());
}

TEST(ReplyTable, ClosingTellsEveryoneAndRefusesMore) {
  ReplyTable table;
  StatusWait first, second, late;
  ASSERT_TRUE(table.Add(1, &first));
  ASSERT_TRUE(table.Add(2, &second));
  table.Close();
  EXPECT_TRUE(first.done() && first.lost());
  EXPECT_TRUE(second.done() && second.lost());
  EXPECT_FALSE(table.Add(3, &late));
  EXPECT_FALSE(late.done());
}

TEST(Reply, MalformedAnswersEndTheWaitAndTheSession) {
  StatusWait wait;
  ByteVector body = Encoded(0);
  body.pop_back();
  const Status status = wait.OnReply(body, {});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().scope, Scope::kSession);
  EXPECT_TRUE(wait.done() && wait.lost());
}

}  // namespace
}  // namespace tulle::shim
