# Whoever submits this names the place of the release in `homepage` and `url`, and its checksum in `sha256`.
class Mantichora < Formula
  desc "Runs Lua functions concurrently in background processes"
  homepage "https://packages.example.org/mantichora"
  url "https://packages.example.org/mantichora/mantichora-0.2.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license "BSD-3-Clause"

  depends_on "cmake" => :build
  depends_on "pkgconf" => :build
  depends_on "libedit"
  depends_on "libmicrohttpd"
  depends_on "libsodium"
  depends_on "lua@5.4"
  depends_on "sqlite"
  depends_on "yajl"

  def install
    system "cmake", "-S", ".", "-B", "build", *std_cmake_args,
           "-DMANTICHORA_LUA_VERSION=5.4", "-DMANTICHORA_PREFER_SHARED=ON",
           "-DMANTICHORA_AMQP=OFF", "-DMANTICHORA_EXAMPLES=OFF"
    system "cmake", "--build", "build"
    system "cmake", "--install", "build"
  end

  test do
    (testpath/"test.lua").write <<~LUA
      local mcore <close> = require "mantichora" { nworkers = 2 }
      mcore:run(function(a) return a + 1 end, 41)
      print(mcore:returns()[1])
    LUA
    assert_equal "42\n", shell_output("#{bin}/mantichora test.lua")
    ENV["LUA_CPATH"] = "#{lib}/lua/5.4/?.so;;"
    assert_equal "42\n", shell_output("#{Formula["lua@5.4"].opt_bin}/lua5.4 test.lua")
  end
end
