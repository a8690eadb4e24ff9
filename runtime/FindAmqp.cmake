# Finds librabbitmq, by which mantichora-amqp speaks to a broker, and OpenSSL, which librabbitmq has
# for TLS anyway; makes the target mantichora_broker of them. MANTICHORA_HAS_AMQP says whether both
# are there.
option(MANTICHORA_AMQP "Build mantichora-amqp, if librabbitmq and OpenSSL are there" ON)
find_path(MANTICHORA_AMQP_INCLUDE_DIR amqp_ssl_socket.h)
find_library(MANTICHORA_AMQP_LIBRARY NAMES rabbitmq)
find_path(MANTICHORA_CRYPTO_INCLUDE_DIR openssl/hmac.h)
find_library(MANTICHORA_CRYPTO_LIBRARY NAMES crypto)
mark_as_advanced(MANTICHORA_AMQP_INCLUDE_DIR MANTICHORA_AMQP_LIBRARY
  MANTICHORA_CRYPTO_INCLUDE_DIR MANTICHORA_CRYPTO_LIBRARY)
set(MANTICHORA_HAS_AMQP OFF)
if(MANTICHORA_AMQP AND MANTICHORA_AMQP_INCLUDE_DIR AND MANTICHORA_AMQP_LIBRARY AND
   MANTICHORA_CRYPTO_INCLUDE_DIR AND MANTICHORA_CRYPTO_LIBRARY)
  set(MANTICHORA_HAS_AMQP ON)
  add_library(mantichora_broker INTERFACE)
  target_include_directories(mantichora_broker SYSTEM INTERFACE
    ${MANTICHORA_AMQP_INCLUDE_DIR} ${MANTICHORA_CRYPTO_INCLUDE_DIR})
  target_link_libraries(mantichora_broker INTERFACE
    ${MANTICHORA_AMQP_LIBRARY} ${MANTICHORA_CRYPTO_LIBRARY})
else()
  message(STATUS "No librabbitmq or OpenSSL: mantichora-amqp is not built")
endif()
