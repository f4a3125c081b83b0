#include "tulle/shim/core/object.h"

#include <gtest/gtest.h>

namespace tulle::shim {
namespace {

class Thing final : public Object {
 public:
  explicit Thing(int* disposed) : Object(disposed, ObjectType::kMemory), disposed_(disposed) {}
  static void Dispose(Thing* thing) {
    ++*thing->disposed_;
    delete thing;
  }

 private:
  int* disposed_;
};

TEST(Object, TheDispatchTableComesFirst) {
  int disposed = 0;
  const Ref<Thing> thing = Ref<Thing>::Adopt(new Thing(&disposed));
  EXPECT_EQ(*reinterpret_cast<void**>(thing.get()), &disposed);
}

TEST(Object, IsKnownByTypeAndOnlyWhileItLives) {
  int disposed = 0;
  Ref<Thing> thing = Ref<Thing>::Adopt(new Thing(&disposed));
  EXPECT_TRUE(Object::IsLive(thing.get(), ObjectType::kMemory));
  EXPECT_FALSE(Object::IsLive(thing.get(), ObjectType::kKernel));
  EXPECT_FALSE(Object::IsLive(nullptr, ObjectType::kMemory));
  EXPECT_FALSE(Object::IsLive(reinterpret_cast<const char*>(thing.get()) + 1, ObjectType::kMemory));
}

TEST(Object, HandlesAndReferencesAreCountedApart) {
  int disposed = 0;
  auto* thing = new Thing(&disposed);
  Ref<Thing> ours(thing);
  thing->AddHandle();
  EXPECT_EQ(thing->handles(), 2u);
  EXPECT_EQ(thing->DropHandle(), Object::Dropped::kSome);
  EXPECT_EQ(thing->DropHandle(), Object::Dropped::kLast);
  Ref<Thing>::Adopt(thing);  // what the handles held
  EXPECT_EQ(thing->DropHandle(), Object::Dropped::kNone);
  EXPECT_EQ(disposed, 0);
  // A handle that is got again from a child brings its reference back.
  thing->AddHandle();
  ours = {};
  EXPECT_EQ(disposed, 0);
  ASSERT_EQ(thing->DropHandle(), Object::Dropped::kLast);
  Ref<Thing>::Adopt(thing);
  EXPECT_EQ(disposed, 1);
}

}  // namespace
}  // namespace tulle::shim
